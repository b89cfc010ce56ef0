"""A slave made with DI-engine's own ding.interaction, for tests in which the other side is ours.

Prints one JSON line per event: ready (port, self_token), connected and disconnected (data), task (data; it
starts to run), lost (address, error). What it does is told by the data it is given: with `refuse` it refuses, with
`crash` its hook fails; for tasks see `_before_task` and `_process_task`. Ends, without a word to its master, when
standard input ends.
"""
import argparse
import functools
import os
import sys
import time

from ding.interaction import ConnectionRefuse, DisconnectionRefuse, Slave, TaskFail, TaskRefuse

from harness import LOOPBACK, be_quiet, emit, reserve_port


# What Python writes as JSON and others do not, or not so.
ODD = {
    'constants': [float('nan'), float('inf'), float('-inf')],
    'surrogate': 'a\ud800b',
    'integer': 10 ** 30,
    'nesting': functools.reduce(lambda inner, _: [inner], range(499), []),
}


def judge(data, refuse):
    if isinstance(data, dict):
        if data.get('crash'):
            raise RuntimeError('hook crashed')
        if 'refuse' in data:
            raise refuse(data['refuse'])


class DingSlave(Slave):
    def _before_connection(self, data):
        judge(data, ConnectionRefuse)
        emit('connected', data=data)

    def _before_disconnection(self, data):
        judge(data, DisconnectionRefuse)
        emit('disconnected', data=data)

    def _lost_connection(self, master_address, err):
        emit('lost', address=master_address, error=type(err).__name__)

    def _before_task(self, data):
        if isinstance(data, dict):
            if data.get('crash_before'):
                raise RuntimeError('hook crashed')
            if 'refuse' in data:
                raise TaskRefuse(data['refuse'])

    def _process_task(self, task):
        emit('task', data=task)
        if not isinstance(task, dict):
            raise TaskFail({'message': 'ab not found'})
        time.sleep(task.get('sleep', 0))
        if task.get('crash'):
            raise RuntimeError('task crashed')
        if 'fail' in task:
            raise TaskFail(task['fail'])
        if 'odd' in task:
            return {'odd': ODD[task['odd']]}
        if 'echo' in task:
            return {'echo': task['echo']}
        if 'a' in task and 'b' in task:
            return {'sum': task['a'] + task['b']}
        raise TaskFail({'message': 'ab not found'}, 'A or B not found in task data.')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--port', type=int, default=0, help='0 takes a free one')
    parser.add_argument('--channel', type=int)
    parser.add_argument('--heartbeat', type=float, help='seconds between two heartbeats')
    parser.add_argument('--quiet', action='store_true', help='no events after ready: for a parent that does not read')
    options = parser.parse_args()

    be_quiet()
    port, holder = reserve_port(options.port)
    slave = DingSlave(LOOPBACK, port, heartbeat_span=options.heartbeat, channel=options.channel)
    slave.start()
    emit('ready', port=port, self_token=slave._Slave__self_token)
    if options.quiet:
        sys.stdout = open(os.devnull, 'w')
    sys.stdin.read()
    os._exit(0)  # the slave's threads would keep the process


if __name__ == '__main__':
    main()
