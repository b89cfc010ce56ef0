#!/usr/bin/env python3
"""How much faster than DI-engine's Python is it? The same work on loopback, measured in the same run.

    tests/python/setup.sh .venv          # once: an environment in which DI-engine's package can be imported
    .venv/bin/python benches/against_ding.py --rust 'cargo bench --quiet --bench interaction --'

--quick measures for one second instead of five (or --seconds S), and each thing once. Without --rust only DI-engine is
measured. Run it on a machine that has nothing else to do.

Master and slave are two processes, on both sides. The work: start a master; run tiny tasks one after the other on one
slave; notice a killed slave; close a master that has nothing to do. The command given with --rust is run from the
project's folder with `--json --seconds S` added, does the same work and prints one JSON object with tasks_per_second,
start_ms, close_ms and, if it likes, round_trip_ms and loss_ms. A bench that is built already can be named by its path
(target/release/deps/interaction-...). --json prints everything as one JSON object.
"""
import argparse
import faulthandler
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
SCRIPTS = os.path.join(ROOT, 'tests', 'python')
sys.dont_write_bytecode = True
sys.path.insert(0, SCRIPTS)

from ding.interaction import Master  # noqa: E402
from ding.interaction.master.task import TaskStatus  # noqa: E402
from harness import LOOPBACK, be_quiet, reserve_port  # noqa: E402

TOLERANCE, CHECK_SPAN, BEAT = 1.0, 0.1, 0.2  # of the loss measurement: DI-engine's are 17, 1 and 3
MEASURES = [  # key, label, whether more is better
    ('tasks_per_second', 'tasks per second, one after the other', True),
    ('round_trip_ms', 'median task, start to result (ms)', False),
    ('start_ms', 'start of a master (ms)', False),
    ('close_ms', 'close of an idle master (ms)', False),
    ('loss_ms', 'killed slave noticed, tolerance 1 s (ms)', False),
]


class Slave:
    """A slave in a process of its own."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, '-B', os.path.join(SCRIPTS, 'ding_slave.py'), '--quiet', '--heartbeat', str(BEAT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.port = json.loads(self.process.stdout.readline())['port']

    def kill(self):
        self.process.kill()
        self.process.communicate()


def started_master(**options):
    port, holder = reserve_port()
    master = Master(LOOPBACK, port, my_address='http://%s:%d' % (LOOPBACK, port), **options)
    begin = time.perf_counter()
    master.start()
    return master, (time.perf_counter() - begin) * 1000, holder


def tasks(seconds):
    slave = Slave()
    master, _, _ = started_master()
    connection = master.new_connection('w', LOOPBACK, slave.port)
    connection.connect()
    round_trips = []
    begin = now = time.perf_counter()
    while now - begin < seconds:
        task = connection.new_task({'a': 1, 'b': 2}).start().join()
        assert task.status == TaskStatus.COMPLETED and task.result == {'sum': 3}
        before, now = now, time.perf_counter()
        round_trips.append((now - before) * 1000)
    connection.disconnect()
    slave.kill()
    master.close()
    return {'tasks_per_second': len(round_trips) / (now - begin), 'round_trip_ms': statistics.median(round_trips)}


def start_and_close(rounds):
    starts, closes = [], []
    for _ in range(rounds):
        master, start, _ = started_master()
        begin = time.perf_counter()
        master.close()
        starts.append(start)
        closes.append((time.perf_counter() - begin) * 1000)
    return {'start_ms': statistics.median(starts), 'close_ms': statistics.median(closes)}


def loss():
    slave = Slave()
    master, _, _ = started_master(heartbeat_tolerance=TOLERANCE, heartbeat_check_span=CHECK_SPAN)
    connection = master.new_connection('w', LOOPBACK, slave.port)
    connection.connect()
    open_task = connection.new_task({'sleep': 60}).start()
    begin = time.perf_counter()
    slave.kill()
    while 'w' in master:
        time.sleep(0.005)
    noticed = (time.perf_counter() - begin) * 1000
    master.close()
    return {'loss_ms': noticed, 'open_task_after_loss': open_task.status.name}


def rust(command, seconds):
    output = subprocess.run(shlex.split(command) + ['--json', '--seconds', str(seconds)], cwd=ROOT, check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output[output.index('{'):])


def table(ours, theirs):
    print('%-50s %12s %12s %10s' % ('', 'DI-engine', 'interplay', 'better by'))
    for key, label, more_is_better in MEASURES:
        cells = ['%.1f' % theirs[key], '', '']
        if ours is not None and ours.get(key) is not None:
            cells[1] = '%.1f' % ours[key]
            better, worse = (ours[key], theirs[key]) if more_is_better else (theirs[key], ours[key])
            cells[2] = 'x %.1f' % (better / worse) if worse > 0 else ''
        print('%-50s %12s %12s %10s' % (label, *cells))
    print("DI-engine's task that was open on the killed slave is left %s for ever." % theirs['open_task_after_loss'])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rust', help='command of the program that does the same work')
    parser.add_argument('--seconds', type=float, default=5.0, help='how long tasks are run')
    parser.add_argument('--quick', action='store_true', help='one second, one round')
    parser.add_argument('--json', action='store_true')
    options = parser.parse_args()
    seconds, rounds = (1.0, 1) if options.quick else (options.seconds, 5)

    # DI-engine waits for a result without limit, and its threads outlive an error in this one.
    faulthandler.dump_traceback_later(60 + 4 * seconds, exit=True)
    be_quiet()
    theirs = {**tasks(seconds), **start_and_close(rounds), **loss()}
    faulthandler.cancel_dump_traceback_later()
    ours = rust(options.rust, seconds) if options.rust else None
    if options.json:
        print(json.dumps({'ding': theirs, 'interplay': ours}))
    else:
        table(ours, theirs)


if __name__ == '__main__':
    main()
