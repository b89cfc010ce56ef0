#!/usr/bin/env python3
"""Try examples/deploy/nginx.conf with a real nginx: accepted, requests kept whole, limits and faults answered right.

Needs nginx, openssl and Python's standard library. Plays the backend itself and touches nothing outside a temporary
directory. Silent when all is well but for one line at the end.
"""
import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time

LOOPBACK = '127.0.0.1'
CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'examples', 'deploy', 'nginx.conf')
NGINX = shutil.which('nginx', path=os.environ['PATH'] + ':/usr/sbin')
LIMIT = 64 << 20
FRAME = '''
daemon off; master_process off; pid pid; error_log stderr error;
events {{ }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {front};
}}
'''


class Backend(http.server.ThreadingHTTPServer):
    """Answers every request with a description of it, with the status that the path /status/N asks for."""

    def __init__(self):
        self.paths = []
        super().__init__((LOOPBACK, 0), Echo)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Echo(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.server.paths.append(self.path)
        length = int(self.headers.get('Content-Length') or 0)
        body = self.rfile.read(length if length <= LIMIT else 0)  # as our servers do
        echo = json.dumps({'method': self.command, 'path': self.path, 'body': body.decode(),
                           'headers': {name.lower(): value for name, value in self.headers.items()}}).encode()
        status = re.match('/status/([0-9]+)', self.path)
        self.send_response(int(status.group(1)) if status else 200)
        self.send_header('Content-Length', str(len(echo)))
        self.end_headers()
        self.wfile.write(echo)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def front(directory, backend_port, tls):
    """nginx with the configuration of the example, but for ports and certificate; gives its port."""
    holder = socket.socket()  # bound, never listening: keeps the port for nginx, which also sets SO_REUSEADDR
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, 0))
    port = holder.getsockname()[1]
    with open(CONFIG, encoding='utf-8') as file:
        text = file.read()
    if tls:
        text = text.replace('listen 8235;', '', 1).replace('#tls ', '')
        text = text.replace('/etc/ssl/interplay', directory)
    text = text.replace('listen 8235', 'listen %s:%d' % (LOOPBACK, port))
    text = text.replace('127.0.0.1:7235;', '127.0.0.1:%d;' % backend_port)
    front_file, frame_file = os.path.join(directory, 'front.conf'), os.path.join(directory, 'nginx.conf')
    for path, content in (front_file, text), (frame_file, FRAME.format(front=front_file)):
        with open(path, 'w', encoding='utf-8') as file:
            file.write(content)
    command = [NGINX, '-p', directory, '-e', 'stderr', '-c', frame_file]
    check = subprocess.run(command + ['-t'], stderr=subprocess.PIPE, text=True)
    assert check.returncode == 0 and 'warn' not in check.stderr, check.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None and time.monotonic() < until, 'nginx does not listen'
            with contextlib.suppress(OSError):
                socket.create_connection((LOOPBACK, port), timeout=1).close()
                break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()
        holder.close()


def exchange(connection, method, path, body, **headers):
    connection.request(method, path, body, headers, encode_chunked=headers.get('Transfer-Encoding') == 'chunked')
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def requests_arrive_whole(connection):
    path, body, token = '/prefix//a%2Fb?q=1', '{"data": {"ü": 1}}', 'aB3' * 20
    for method in 'GET', 'POST', 'PUT', 'DELETE':
        status, echo = exchange(connection, method, path, body.encode(), Token=token, Channel='-7')
        assert status == 200
        assert (echo['method'], echo['path'], echo['body']) == (method, path, body), echo
        assert (echo['headers']['token'], echo['headers']['channel']) == (token, '-7'), echo
    large = 'x' * (4 << 20)
    assert exchange(connection, 'PUT', '/large', large)[1]['body'] == large
    chunks = exchange(connection, 'POST', '/chunks', iter([b'ab', b'cd']), **{'Transfer-Encoding': 'chunked'})
    assert chunks[1]['body'] == 'abcd', chunks
    for status in 400, 401, 403, 404, 413, 503:
        assert exchange(connection, 'GET', '/status/%d' % status, '{}')[0] == status
        assert exchange(connection, 'GET', '/status/%d' % status, '{}')[1]['body'] == '{}'


def limits_and_faults(port, backend):
    head = 'POST /%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n'
    with socket.create_connection((LOOPBACK, port)) as unfinished:
        unfinished.sendall((head % ('unfinished', 10)).encode() + b'abc')
        connection = http.client.HTTPConnection(LOOPBACK, port)
        exchange(connection, 'GET', '/after', '{}')
        assert '/unfinished' not in backend.paths and '/after' in backend.paths
    for path in '/long', '/status/413', '/status/503':
        # The first claims the length, the second sends it all before it reads.
        for body in b'', b'x' * LIMIT + b'x':
            with socket.create_connection((LOOPBACK, port)) as too_long:
                claim = 10 ** 12 if body == b'' else len(body)
                too_long.sendall(('PUT %s HTTP/1.1\r\nHost: h\r\nToken: t\r\nContent-Length: %d\r\n\r\n'
                                  % (path, claim)).encode())
                too_long.sendall(body)
                response = http.client.HTTPResponse(too_long)
                response.begin()
                assert response.status == int(path[8:] or 200), response.status
                echo = json.loads(response.read())
                assert (echo['method'], echo['path'], echo['body']) == ('PUT', path, ''), echo
                assert (echo['headers']['token'], echo['headers']['host']) == ('t', 'h'), echo
                assert int(echo['headers']['content-length']) == LIMIT + 1, echo
    backend.shutdown()
    backend.server_close()
    try:
        exchange(connection, 'GET', '/gone', '{}')
        raise AssertionError('an answer without a backend')
    except http.client.RemoteDisconnected:
        pass


def main():
    backend = Backend()
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                        '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:' + LOOPBACK, '-days', '1',
                        '-keyout', directory + '/key.pem', '-out', directory + '/chain.pem'],
                       check=True, stderr=subprocess.DEVNULL)
        with front(directory, backend.server_port, tls=True) as port:
            trust = ssl.create_default_context(cafile=directory + '/chain.pem')
            requests_arrive_whole(http.client.HTTPSConnection(LOOPBACK, port, context=trust))
        with front(directory, backend.server_port, tls=False) as port:
            requests_arrive_whole(http.client.HTTPConnection(LOOPBACK, port))
            limits_and_faults(port, backend)
    print('nginx.conf: requests arrive whole by http and https, limits and faults are answered right')


if __name__ == '__main__':
    main()
