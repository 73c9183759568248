"""A small online tester: type a Python program into a page, and read its output as it comes.

    sandboxed serve --socket /run/tester.sock examples/tester/main.py     # as root
    python examples/tester/page.py /run/tester.sock                       # as whoever may connect

The page needs no privilege: all that it does is to pass bytes on between a browser and the socket.
"""

import http.server
import socket
import sys

PAGE = b"""<!doctype html>
<meta charset="utf-8"><title>Tester</title>
<style>body{font:16px sans-serif;max-width:50em;margin:2em auto}
textarea,pre{width:100%;font:14px monospace}
pre{background:#eee;min-height:5em;white-space:pre-wrap}</style>
<h1>Try Python</h1>
<textarea id="source" rows="12">name = input()
print("Hello,", name)</textarea>
<textarea id="input" rows="2">Ada</textarea>
<button id="run">Run</button>
<pre id="output"></pre>
<script>
const at = id => document.getElementById(id);
at("run").onclick = async () => {
  at("output").textContent = "";
  const body = JSON.stringify({source: at("source").value, input: at("input").value});
  const answer = await fetch("/run", {method: "POST", body});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done;) at("output").textContent += part.value;
};
</script>
"""
LONGEST = 64 * 1024


class Handler(http.server.BaseHTTPRequestHandler):
    """The page, and what its button asks for."""

    path_to_server = ""

    def do_GET(self) -> None:
        """Give the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(PAGE)

    def do_POST(self) -> None:
        """Run what was sent, and pass its output on as it comes."""
        size = int(self.headers.get("Content-Length", 0))
        if size > LONGEST:
            self.send_error(413)
            return
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.path_to_server)
            server.sendall(self.rfile.read(size).replace(b"\0", b"") + b"\0")
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.end_headers()
            held = b""
            while data := server.recv(65536):
                data = held + data
                held = data[-1:] if data.endswith(b"\0") else b""  # the last NUL is the end
                self.wfile.write(data[: len(data) - len(held)])
            if not held:
                self.wfile.write(b"\n(the server broke off)\n")


def main() -> None:
    """Serve the page on this machine alone."""
    Handler.path_to_server = sys.argv[1]
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as pages:
        print(f"http://127.0.0.1:{pages.server_port}/", flush=True)
        pages.serve_forever()


if __name__ == "__main__":
    main()
