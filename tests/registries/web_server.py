"""Run inside a network of its own: serves this folder over HTTP on port 8080 and over TLS on 8443, at every address.

python web_server.py CERTIFICATE KEY        # prints a line when it is ready
"""

import ssl
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


def main(certificate: str, key: str) -> None:
    plain = ThreadingHTTPServer(("", 8080), SimpleHTTPRequestHandler)
    secure = ThreadingHTTPServer(("", 8443), SimpleHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    print("ready", flush=True)
    secure.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
