"""What ding_slave.py and ding_master.py share: a quiet server, JSON lines on standard output, a port of one's own."""
import json
import logging
import socket
import sys
import threading
import warnings

import flask.cli

LOOPBACK = '127.0.0.1'
_writing = threading.Lock()


def be_quiet():
    """Keep out of the output: Flask's banner, Werkzeug's request log, its warning of the shutdown DI-engine uses."""
    warnings.simplefilter('ignore')
    flask.cli.show_server_banner = lambda *args, **kwargs: None
    logging.getLogger('werkzeug').setLevel(logging.CRITICAL)


def emit(event, **fields):
    """Print one line, whole, whatever thread calls; NaN and the infinities become text, as strict readers want it."""
    plain = json.loads(json.dumps({'event': event, **fields}), parse_constant=str)
    line = json.dumps(plain) + '\n'
    with _writing:
        sys.stdout.write(line)
        sys.stdout.flush()


def reserve_port(port=0):
    """A port (0: a free one) and the socket that keeps it ours until the process ends.

    The socket is bound and never listens, so that nobody is given the port by chance, while the server, which
    sets SO_REUSEADDR too, can still bind it. DI-engine itself takes port 0 for its default.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, port))
    return holder.getsockname()[1], holder
