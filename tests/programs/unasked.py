"""Rules hold for calls that the preloaded library answers: run with 10.1.0.9 by default, 10.2.0.9 by a rule on another
stack, and UDP to 10.1.0.8 and 10.2.0.8 denied; on each .9 `reply.py` answers on port 8000."""
import errno, socket

def check(what, got, wanted):
    if got != wanted: print(what, 'WRONG: %r, not %r' % (got, wanted))
A, B, NO = '10.1.0.9', '10.2.0.9', {'10.1.0.9': '10.1.0.8', '10.2.0.9': '10.2.0.8'}
WAYS = {
    'sendto': lambda u, to: u.sendto(b'x', to),
    'sendmsg': lambda u, to: u.sendmsg([b'x'], [], 0, to),
    'cmsg': lambda u, to: u.sendmsg([b'x'], [(socket.IPPROTO_IP, socket.IP_TOS, b'\x10\0\0\0')], 0, to),
}
def code(call, *args):
    try: call(*args); return 0
    except OSError as x: return x.errno
def udp():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(10)
    return u
# the first send decides, whatever way and how often it was gone before
for name, send in WAYS.items():
    for home, other in ((A, B), (B, A)):
        for bound in (False, True):
            u = udp()
            if bound: u.bind(('', 0))
            for n in range(6):
                what = '%s %s %s %d:' % (name, home, bound, n)
                send(u, (home, 8000))
                said, who = u.recvfrom(100)
                local = '10.%d.0.1:%d' % (1 if home == A else 2, u.getsockname()[1])
                check(what + ' answer', (said.split()[3].decode(), who), (local, (home, 8000)))
                check(what + ' peer', code(u.getpeername), errno.ENOTCONN)
                for way in WAYS.values():
                    check(what + ' denied', code(way, u, (NO[home], 8000)), errno.EACCES)
                    check(what + ' elsewhere', code(way, u, (other, 8000)), errno.ENETUNREACH)
# connect(2) moves, and what the library answers moves along
u = udp()
for to in (A, B, A, B):
    u.connect((to, 8000))
    for _ in range(3):
        u.send(b'x')
        check('moved', (u.recv(100).split()[3].decode(), u.getpeername()), ('%s:%d' % u.getsockname(), (to, 8000)))
        check('kind', u.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN), socket.AF_INET)
    check('connect', code(u.connect, (NO[to], 8000)), errno.EACCES)
print('done')
