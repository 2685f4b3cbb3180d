"""What a program sees of somebody far away (far.py) and of the way there, a line each. Natively and in a view it is the same,
but for the hops: the first argument is how many there are more."""
import errno, socket, struct, sys, threading, time

HOPS = int(sys.argv[1])
IP_MTU_DISCOVER, IP_MTU, IP_RECVERR = 10, 14, 11
V6_MTU_DISCOVER, V6_MTU, V6_RECVERR = 23, 24, 25
DO = 2
NAMES = {4: dict(far='198.51.100.2', also='198.51.100.3', host='203.0.113.1', net='203.0.113.130', prohibited='203.0.113.9',
                 level=socket.IPPROTO_IP, discover=IP_MTU_DISCOVER, mtu=IP_MTU, recverr=IP_RECVERR, ttl=socket.IP_TTL,
                 family=socket.AF_INET, header=28),
         6: dict(far='2001:db8:2::2', also='2001:db8:2::3', host='2001:db8:3::1', net='2001:db8:4::1', prohibited='2001:db8:3::9',
                 level=socket.IPPROTO_IPV6, discover=V6_MTU_DISCOVER, mtu=V6_MTU, recverr=V6_RECVERR,
                 ttl=socket.IPV6_UNICAST_HOPS, family=socket.AF_INET6, header=48)}

def name(e): return errno.errorcode.get(e.errno, str(e))

def tcp(at, port, source=None):
    s = socket.socket(v['family']); s.settimeout(10)
    if source is not None: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', source))
    s.connect((at, port)); return s

def udp():
    s = socket.socket(v['family'], socket.SOCK_DGRAM); s.settimeout(10); return s

def ask(s, at, port, data=b'x'):
    # What is longer than the way may get lost until its length is known.
    s.settimeout(2)
    for n in range(4):
        s.sendto(data, (at, port))
        try: return s.recv(65536)
        except TimeoutError: pass
    return b'0:nothing'

def everything(s):
    d = b''
    while more := s.recv(65536): d += more
    return d

def attempt(do, *args):
    try: return do(*args)
    except OSError as e: return name(e)

def heard(s, send):
    """The next entry of the error queue: errno, origin, type, code, what goes with it, who says so."""
    s.setblocking(False)
    for n in range(500):
        # It may get lost as any packet.
        if n % 50 == 0: send()
        try: _, control, _, _ = s.recvmsg(1, 200, socket.MSG_ERRQUEUE)
        except BlockingIOError: time.sleep(0.02); continue
        number, origin, kind, code, _, info, _ = struct.unpack_from('=IBBBBII', control[0][2])
        rest = control[0][2][16:]
        family, = struct.unpack_from('=H', rest)
        who = {socket.AF_INET: lambda: socket.inet_ntop(family, rest[4:8]),
               socket.AF_INET6: lambda: socket.inet_ntop(family, rest[8:24])}.get(family, lambda: 'nobody')()
        return errno.errorcode[number], origin, kind, code, info, who
    return 'nothing'

def streams():
    far = v['far']
    s = tcp(far, 7001); sent = bytes(range(256)) * 8192
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    print('window scaling', bool(info[5] & 4), info[6] & 15 > 0, info[6] >> 4 > 0)
    threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))).start()
    print('whole, both ways', everything(s) == sent)
    s = tcp(far, 7003); s.sendall(bytes(100000)); s.shutdown(socket.SHUT_WR); print('half-closed here', everything(s))
    s = tcp(far, 7004); print('half-closed there', everything(s)); s.sendall(bytes(100000)); s.close(); ended()
    s = tcp(far, 7002); s.send(b'x'); print('reset there', attempt(s.recv, 1), attempt(s.send, b'x'))
    s = tcp(far, 7006); s.send(b'x'); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close(); ended()
    # As data like any other: that is so with SO_OOBINLINE everywhere.
    s = tcp(far, 7005); s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1); print('urgent there', everything(s))
    s.sendall(b'before'); s.send(b'now!', socket.MSG_OOB); s.sendall(b'after'); s.close(); ended()
    for who in ('far', 'host', 'net', 'prohibited'): print('nobody at', who, attempt(tcp, v[who], 9))
    # It is known by the same port, whoever it goes to.
    all = [tcp(far, 7010, 0)]; own = all[0].getsockname()[1]
    all += [tcp(far, 7011, own), tcp(v['also'], 7010, own)]
    print('ports of tcp', len({s.recv(9) for s in all}))

def ended():
    """How the far end says that it ended."""
    for n in range(100):
        if d := ask(udp(), v['far'], 7009): return print('there:', d.decode())
        time.sleep(0.05)
    print('there: nothing')

def datagrams():
    far, also = v['far'], v['also']
    s = udp(); ports = set()
    for at, port in ((far, 7007), (far, 7008), (also, 7007)):
        for length in (1, 1300, 8192, 60000):
            d = ask(s, at, port, bytes(length)); number, d = d.split(b':', 1)
            print('there and back', length, d == bytes(length)); ports.add(number)
    s.connect((far, 9)); s.send(b'x'); print('nobody there', attempt(s.recvmsg, 1))
    # It knows us by the same port, still.
    s = udp(); ports = {ask(s, far, 7007), ask(s, also, 7008)}
    s.sendto(b'x', (far, 9)); time.sleep(0.1)
    ports.add(ask(s, far, 7008)); print('ports', len(ports), attempt(ask, s, far, 7007, b'elsewhere'))
    for who in ('far', 'host', 'net', 'prohibited'):
        s = udp(); s.setsockopt(v['level'], v['recverr'], 1); print('error of', who, heard(s, lambda: s.sendto(b'x', (v[who], 9))))

def hops():
    # The first one natively is the second one in a view.
    s = udp(); s.setsockopt(v['level'], v['recverr'], 1); s.setsockopt(v['level'], v['ttl'], 1 + HOPS)
    print('hops', heard(s, lambda: s.sendto(b'x', (v['far'], 7007))))

def path_mtu():
    s = udp(); s.setsockopt(v['level'], v['discover'], DO); s.setsockopt(v['level'], v['recverr'], 1); s.connect((v['far'], 7007))
    # Who says so, the way or the own stack, depends on what that knows already.
    print('path mtu', heard(s, lambda: attempt(s.send, bytes(1500 - v['header'])))[0], s.getsockopt(v['level'], v['mtu']))
    s = udp(); s.setsockopt(v['level'], v['discover'], DO); s.connect((v['far'], 7007))
    s.send(bytes(1400 - v['header'])); print('just so', len(s.recv(2000).split(b':', 1)[1]) + v['header'])
    # One that may be cut is.
    print('cut', len(ask(udp(), v['far'], 7007, bytes(1472)).split(b':', 1)[1]))

for v in NAMES.values(): print('--', v['far']); streams(); datagrams(); hops(); path_mtu()
