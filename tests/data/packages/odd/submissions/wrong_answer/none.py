print('nothing')
