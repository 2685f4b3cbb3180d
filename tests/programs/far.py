"""Somebody far away, on all addresses: what it serves at which port is said in the table below."""
import socket, struct, sys, threading

LINGER = struct.pack('ii', 1, 0)
ended = []

def echo(s):
    while d := s.recv(65536): s.sendall(d)

def reset(s):
    s.recv(1); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)

def late(s):
    n = 0
    while d := s.recv(65536): n += len(d)
    s.sendall(b'%d' % n)

def early(s):
    s.sendall(b'bye'); s.shutdown(socket.SHUT_WR); n = 0
    while d := s.recv(65536): n += len(d)
    ended.append('heard %d' % n)

def urgent(s):
    s.sendall(b'before'); s.send(b'now!', socket.MSG_OOB); s.sendall(b'after'); s.shutdown(socket.SHUT_WR)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    d = b''
    while more := s.recv(100): d += more
    ended.append(d.decode())

def watch(s):
    try:
        while s.recv(65536): pass
        ended.append('closed')
    except OSError as e: ended.append('error %d' % e.errno)

def who(s):
    s.sendall(b'%d' % s.getpeername()[1]); s.recv(1)

TCP = {7001: echo, 7002: reset, 7003: late, 7004: early, 7005: urgent, 7006: watch, 7010: who, 7011: who}

def serve(s, what):
    try: what(s)
    except OSError: pass
    s.close()

def accept(l, what):
    while True: threading.Thread(target=serve, args=(l.accept()[0], what), daemon=True).start()

def datagrams(u, port):
    while True:
        d, control, _, who = u.recvmsg(65536, 200)
        # The asker's port, the data; from where it was asked, or from another port.
        if port == 7009: d = ', '.join(ended).encode(); ended.clear()
        elif d == b'elsewhere': socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'from elsewhere', who); continue
        else: d = b'%d:' % who[1] + d
        u.sendmsg([d], control, 0, who)

for port, what in TCP.items():
    l = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=accept, args=(l, what), daemon=True).start()
for port in (7007, 7008, 7009):
    u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(('::', port))
    # It is asked at several addresses.
    u.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    threading.Thread(target=datagrams, args=(u, port), daemon=True).start()
print('up', flush=True)
threading.Event().wait()
