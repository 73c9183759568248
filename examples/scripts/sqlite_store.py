"""Keep a table in SQLite, in a file in the working directory."""

import sqlite3

with sqlite3.connect("stock.db") as store:
    store.execute("create table stock (item text primary key, pieces integer not null)")
    store.executemany("insert into stock values (?, ?)", [("bolt", 120), ("nut", 95), ("washer", 400)])
    store.execute("update stock set pieces = pieces - 20 where item = 'nut'")

((total,),) = store.execute("select sum(pieces) from stock")
print(f"{total} pieces in stock")
for item, pieces in store.execute("select item, pieces from stock order by pieces"):
    print(f"{item:8} {pieces:5}")
store.close()
