#!/usr/bin/env python3
"""How much faster than other QMP clients is it? The same work at the same servers, measured in the same run.

    tests/python/setup.sh .venv          # once: an environment in which the Python package qemu.qmp can be imported
    .venv/bin/python benches/against_qemu_qmp.py --bench 'cargo bench --quiet --bench qmp --' \\
        --rivals 'cargo run --quiet --release --manifest-path benches/rivals/Cargo.toml --'

--quick measures each thing for half a second instead of three (or --seconds S). Without --rivals only the Python package
is compared. Run it on a machine that has nothing else to do.

The servers are those of the bench, which is started with `--serve`: one that costs nothing, and QEMU's own where they are
installed. The work: a command with a small reply, one call after the other; a thousand such calls under way at once; the
schema, a reply of 110 KB and more, made a value, and made a type of its own, which is all that qapi does. Then the bench does that with `--json --seconds S`: the raw socket is its
baseline, "interplay" the client. A bench that is built already can be named by its path (target/release/deps/qmp-...).
--json prints everything as one JSON object.
"""
import argparse
import asyncio
import faulthandler
import json
import logging
import os
import shlex
import subprocess
import sys
import time

from qemu.qmp import QMPClient

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
MANY = 1000
WORKS = [  # key, label
    ('one', 'one after the other'),
    ('many', '1,000 in flight'),
    ('large', 'a schema, made a value'),
    ('typed', 'a schema, made its type'),
]


def serve(command):
    """The bench in its second role, and what it says: where its servers are."""
    process = subprocess.Popen(shlex.split(command) + ['--serve'], cwd=ROOT, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    return process, line, json.loads(line)


async def turn(seconds, count, call):
    await call()
    calls, begin, cpu = 0, time.perf_counter(), time.process_time()
    while calls == 0 or time.perf_counter() - begin < seconds:
        await call()
        calls += count
    return {'per_second': calls / (time.perf_counter() - begin), 'cpu_us': (time.process_time() - cpu) / calls * 1e6}


async def python_package(monitor, seconds):
    client = QMPClient('bench')
    await client.connect(monitor['socket'])
    small, large = monitor['small'], monitor['large']
    done = {
        'one': await turn(seconds, 1, lambda: client.execute(small)),
        'many': await turn(seconds, MANY, lambda: asyncio.gather(*(client.execute(small) for _ in range(MANY)))),
        'large': await turn(seconds, 1, lambda: client.execute(large)),
    }
    await client.disconnect()
    return done


def run(command, arguments, text=None):
    output = subprocess.run(shlex.split(command) + arguments, cwd=ROOT, check=True, input=text,
                            stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output[output.index('{'):])


def cell(measured, base):
    if not measured:
        return '-'
    rate = '{:,.0f}/s {:,.1f} us'.format(measured['per_second'], measured['cpu_us'] or float('nan'))
    return rate + (' x%.2f' % (base['per_second'] / measured['per_second']) if base else '')


def table(results):
    """One line a server and work: calls a second, processor time of a call, and how many times faster ours is."""
    ours = results.get('interplay')
    clients = [name for name in ('interplay', 'raw', 'qemu.qmp', 'qapi', 'qapi, buffered') if name in results]
    print('%-44s' % '' + ''.join('%28s' % name for name in clients))
    for monitor in results['raw']:
        for key, label in WORKS:
            base = ours[monitor][key] if ours else None
            print('%-20s%-24s' % (monitor, label) + ''.join(
                '%28s' % cell(results[name].get(monitor, {}).get(key), None if name == 'interplay' else base)
                for name in clients))
    if ours:
        print('x: how many times faster interplay is')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bench', required=True, help='command of the bench, which has the servers')
    parser.add_argument('--rivals', help='command of the program that measures rivals in Rust')
    parser.add_argument('--seconds', type=float, default=3.0, help='how long each thing is done')
    parser.add_argument('--quick', action='store_true', help='half a second each')
    parser.add_argument('--json', action='store_true')
    options = parser.parse_args()
    seconds = 0.5 if options.quick else options.seconds

    # The package waits without limit for a server that does not answer.
    faulthandler.dump_traceback_later(300 + 60 * seconds, exit=True)
    logging.disable(logging.CRITICAL)
    results = {}
    servers, line, monitors = serve(options.bench)
    try:
        results['qemu.qmp'] = {m['name']: asyncio.run(python_package(m, seconds)) for m in monitors}
        if options.rivals:
            results.update(run(options.rivals, [str(seconds)], line))
    finally:
        servers.stdin.close()
        servers.wait()
    results.update(run(options.bench, ['--json', '--seconds', str(seconds)]))
    faulthandler.cancel_dump_traceback_later()
    if options.json:
        print(json.dumps(results))
    else:
        table(results)


if __name__ == '__main__':
    main()
