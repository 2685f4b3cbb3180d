"""What a socket takes along when a rule moves it to another stack: run with stacks that reach 10.1.0.9 by
default and 10.2.0.9 by a rule, on each of which `reply.py` answers on port 8000."""
import fcntl, os, select, socket, struct

def check(what, got, wanted):
    print(what, 'ok' if got == wanted else 'WRONG: %r, not %r' % (got, wanted))
A, B = '10.1.0.9', '10.2.0.9'
# options, copies, epoll and flags, all before connect(2)
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 5, 0))
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 9))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50000)
rcvbuf = s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
low = os.dup(s.fileno()); high = fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 200)
s.setblocking(False)
e, f = select.epoll(), select.epoll()
e.register(s.fileno(), select.EPOLLOUT | select.EPOLLET)
f.register(high, select.EPOLLIN | select.EPOLLONESHOT)
e.poll(0)
check('connect', s.connect_ex((B, 8000)), 115)
r = e.poll(30)
while r and r[0][1] & select.EPOLLHUP: r = e.poll(30)
check('epoll', r, [(s.fileno(), select.EPOLLOUT)])
check('error', s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
check('oneshot', [n for n, ev in f.poll(30)], [high])
check('peer', [socket.socket(fileno=os.dup(n)).getpeername() for n in (low, high)], [(B, 8000)] * 2)
check('inode', len({os.fstat(n).st_ino for n in (s.fileno(), low, high)}), 1)
check('nonblocking', [fcntl.fcntl(n, fcntl.F_GETFL) & os.O_NONBLOCK != 0 for n in (low, high)], [True, True])
check('cloexec', [fcntl.fcntl(n, fcntl.F_GETFD) for n in (s.fileno(), low, high)], [1, 1, 0])
check('nodelay', s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
check('keepidle', s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 77)
check('rcvtimeo', s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16), struct.pack('ll', 5, 0))
check('linger', s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8), struct.pack('ii', 1, 9))
check('rcvbuf', s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), rcvbuf)
check('tos', s.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) & 0x10, 0x10)
os.close(low); os.close(high)
select.select([s], [], [], 30)
check('data', s.recv(100), b'tcp office to 10.2.0.1\n')
# what the program did not set is what the other stack has: TCP_MAXSEG is 536 before connect(2), and would be after it
s = socket.socket(); s.connect((B, 8000))
check('maxseg', s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 1000, True)
# a wildcard port goes along; an address stays
s = socket.socket(); s.bind(('', 4321)); s.connect((B, 8000))
check('port', s.getsockname(), ('10.2.0.1', 4321))
s = socket.socket(); s.bind(('10.2.0.1', 0)); s.connect((B, 8000))
check('bound to another stack', s.getsockname()[0], '10.2.0.1')
s = socket.socket()
try: s.bind(('10.9.9.9', 0)); print('bind WRONG')
except OSError as x: check('bound to none', x.errno, 99)
# the first send decides
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30)
u.bind(('', 0)); port = u.getsockname()[1]
u.sendmsg([b'x'], [], 0, (B, 8000))
check('udp', u.recv(100), b'udp office to 10.2.0.1:%d\n' % port)
for send in (lambda: u.sendto(b'x', (A, 8000)), lambda: u.sendmsg([b'x'], [], 0, (A, 8000))):
    try: send(); print('udp WRONG')
    except OSError as x: check('udp to another stack', x.errno, 101)
u.sendto(b'x', (B, 8000)); check('udp again', u.recv(100)[:10], b'udp office')
# connect(2) moves, as getaddrinfo's sorting does it
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30)
for to, name in ((A, b'lan'), (B, b'office'), (A, b'lan')):
    u.connect((to, 8000)); u.send(b'x'); check('udp connected', u.recv(100).split()[1], name)
# mapped
s = socket.socket(socket.AF_INET6); s.connect(('::ffff:' + B, 8000)); check('mapped', s.recv(100)[:10], b'tcp office')
# threads see it, and a child has it
s = socket.socket()
pid = os.fork()
if pid == 0:
    s.connect((B, 8000)); os._exit(0 if s.recv(100)[:10] == b'tcp office' else 1)
check('child', os.waitpid(pid, 0)[1], 0)
# servers stay on the default stack
l = socket.socket(); l.bind(('', 0)); l.listen(); c = socket.socket(); c.connect(('10.1.0.1', l.getsockname()[1])); check('server', l.accept()[1][0], '10.1.0.1')
print('done')
