"""Says its name, by TCP and by UDP, on port 8000 of every address, and `up` when it is there."""
import socket, sys, threading

name=sys.argv[1]
def tcp(fam,addr):
    s=socket.socket(fam,socket.SOCK_STREAM); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
    if fam==socket.AF_INET6: s.setsockopt(41,26,1)
    s.bind((addr,8000)); s.listen()
    yield
    while 1:
        threading.Thread(target=answer,args=s.accept()).start()
def answer(c,a):
    c.sendall(("tcp %s to %s\n"%(name,a[0])).encode()); c.shutdown(socket.SHUT_WR)
    while c.recv(1000): pass
    c.close()
def udp(fam,addr):
    s=socket.socket(fam,socket.SOCK_DGRAM)
    if fam==socket.AF_INET6: s.setsockopt(41,26,1)
    s.bind((addr,8000))
    yield
    while 1:
        d,a=s.recvfrom(2000); s.sendto(("udp %s to %s:%d\n"%(name,a[0],a[1])).encode(),a)
for f in (tcp,udp):
    for fam,ad in ((socket.AF_INET,"0.0.0.0"),(socket.AF_INET6,"::")):
        server=f(fam,ad); next(server)
        threading.Thread(target=next,args=(server,)).start()
print("up",flush=True)
