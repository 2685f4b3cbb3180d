"""Asks each address that it is given by TCP and by UDP."""
import os, socket, sys

for d in sys.argv[1:]:
    fam=socket.AF_INET6 if ':' in d else socket.AF_INET
    s=socket.socket(fam); s.settimeout(float(os.environ.get('PATIENCE', 10)))
    try:
        s.connect((d,8000)); print(d, s.recv(100).decode().strip(), 'from', s.getsockname()[0])
    except OSError as e: print(d,'tcp',e)
    s=socket.socket(fam,socket.SOCK_DGRAM); s.settimeout(float(os.environ.get('PATIENCE', 10)))
    try:
        s.sendto(b'x',(d,8000)); print(d, s.recv(100).decode().strip())
    except OSError as e: print(d,'udp',e)
