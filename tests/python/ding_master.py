"""A master made with DI-engine's own ding.interaction, driven by JSON lines on standard input.

Orders, carried out one after the other:
  {"cmd": "connect", "name": N, "host": H, "port": P, "https": false, "data": D}
                                                a new connection; without host and port the one N had before
  {"cmd": "task", "name": N, "data": D, "tag": T}   starts it and goes on; the tag comes back with its events
  {"cmd": "disconnect", "name": N, "data": D}   {"cmd": "contains", "name": N}   {"cmd": "ping"}
  {"cmd": "wait_gone", "name": N}               waits until the name is no longer registered
  {"cmd": "close"}                              shuts down in order; the process ends

Prints one JSON line per event: ready (port, address, self_token), connected and disconnected (the answer),
task_started, task_done (task_status, result), contains (registered, connected), gone, pong (ok), closed, and error
(error: the class; for an answer of the peer also status, code, message, data). Ends, without a word to its slaves,
when standard input ends.
"""
import argparse
import json
import os
import sys
import threading
import time

from ding.interaction import Master
from ding.interaction.exception import ResponseException

from harness import LOOPBACK, be_quiet, emit, reserve_port


class DingMaster(Master):
    data = None  # what the next connect or disconnect carries

    def _before_connect(self):
        return self.data

    def _before_disconnect(self):
        return self.data

    def _after_connect(self, status_code, success, code, message, data):
        return {'status': status_code, 'code': code, 'message': message, 'data': data}

    _after_disconnect = _after_connect


class Orders:
    """One method per order; what it returns is printed as its event."""

    def __init__(self, master):
        self.master = master
        self.connections = {}

    def connect(self, name, host=None, port=None, https=False, data=None):
        if host is not None:
            self.connections[name] = self.master.new_connection(name, host, port, https)
        self.master.data = data
        return 'connected', self.connections[name].connect()

    def disconnect(self, name, data=None):
        self.master.data = data
        return 'disconnected', self.connections[name].disconnect()

    def task(self, name, data=None, tag=None):
        task = self.connections[name].new_task(data)
        told = threading.Event()  # the result may come before start() is through, its line must not

        def done(data, result):
            told.wait()
            emit('task_done', name=name, tag=tag, task_status=task.status.name.lower(), data=data, result=result)

        task.on_complete(done).on_fail(done)
        try:
            task.start()
            emit('task_started', name=name, tag=tag)
        finally:
            told.set()

    def contains(self, name):
        connection = self.connections.get(name)
        return 'contains', {'registered': name in self.master,
                            'connected': connection is not None and connection.is_connected}

    def wait_gone(self, name):
        while name in self.master:
            time.sleep(0.05)
        return 'gone', {}

    def ping(self):
        return 'pong', {'ok': self.master.ping()}

    def close(self):
        self.master.close()
        return 'closed', {}

    def carry_out(self, cmd, **fields):
        about = {key: fields[key] for key in ('name', 'tag') if key in fields}
        try:
            outcome = getattr(self, cmd)(**fields)
        except ResponseException as err:
            emit('error', cmd=cmd, error=type(err).__name__, status=err.status_code, code=err.code,
                 message=err.message, data=err.data, **about)
        except Exception as err:
            emit('error', cmd=cmd, error=type(err).__name__, status=None, code=None,
                 message=str(err), data=None, **about)
        else:
            if outcome is not None:
                emit(outcome[0], **about, **outcome[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--port', type=int, default=0, help='0 takes a free one')
    parser.add_argument('--channel', type=int)
    parser.add_argument('--tolerance', type=float, help='seconds without a heartbeat until a slave is dropped')
    parser.add_argument('--check-span', type=float, help='seconds between two looks at the heartbeats')
    parser.add_argument('--my-address', help='what slaves are told (default: http://127.0.0.1:PORT)')
    options = parser.parse_args()

    be_quiet()
    port, holder = reserve_port(options.port)
    address = options.my_address or 'http://%s:%d' % (LOOPBACK, port)
    master = DingMaster(LOOPBACK, port, heartbeat_tolerance=options.tolerance, heartbeat_check_span=options.check_span,
                        channel=options.channel, my_address=address)
    master.start()
    emit('ready', port=port, address=address, self_token=master._Master__self_token)
    orders = Orders(master)
    for line in sys.stdin:
        order = json.loads(line)
        orders.carry_out(**order)
        if order['cmd'] == 'close':
            break
    os._exit(0)  # the master's threads would keep the process


if __name__ == '__main__':
    main()
