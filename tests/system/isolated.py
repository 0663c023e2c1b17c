"""Run in a network namespace of its own: `python isolated.py SOCKET COMMAND…` makes a network in which everything that
leaves is seen, hands what sees it to whoever listens at SOCKET (a path), and becomes COMMAND.

This machine's own addresses work. Every other address is routed to the end of a wire at which a packet socket listens;
names are asked for either there or at port 53 of this machine, where somebody listens too. The only way out is port
3128 of this machine, whose listener belongs to the other side of SOCKET as well.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

PROXY_PORT = 3128
_ETH_P_ALL = 3  # linux/if_ether.h
# https://www.rfc-editor.org/rfc/rfc2544: for tests, nobody's.
_COMMANDS = (
    "ip link set lo up",
    "ip link add wire type veth peer name end",
    "ip link set wire addrgenmode none",  # no IPv6, whose own talk would be seen
    "ip link set end addrgenmode none",
    "ip link set wire up",
    "ip link set end up",
    "ip address add 198.18.7.2/24 dev wire",
    "ip neighbour add 198.18.7.1 lladdr 02:00:00:00:00:01 dev wire nud permanent",
    "ip route add default via 198.18.7.1",
)


def main(outside: str, *command: str) -> None:
    for line in _COMMANDS:
        subprocess.run(line.split(), check=True)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    wire.bind(("end", 0))
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("", 53))
    proxy = socket.create_server(("127.0.0.1", PROXY_PORT), backlog=64)
    with socket.socket(socket.AF_UNIX) as other_side:
        other_side.connect(outside)
        socket.send_fds(other_side, [b"x"], [wire.fileno(), names.fileno(), proxy.fileno()])
        other_side.recv(1)
    os.execvp(command[0], command)  # which closes them here


if __name__ == "__main__":
    main(*sys.argv[1:])
