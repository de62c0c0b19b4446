"""What a hostile process sends: a descriptor whose last close waits for its peer (socket(7), SO_LINGER)."""

SOURCE = '''
import socket, struct
def lingering(seconds):
    """A server that reads nothing, and a socket with more to send to it than it takes: its close waits so long."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    tcp = socket.create_connection(server.getsockname())
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    tcp.setblocking(False)
    try:
        while True:
            tcp.send(bytes(65536))
    except BlockingIOError:
        return server, tcp
'''
"""Python, for the front of a script of another user's: `lingering(seconds)` returns both sockets."""
