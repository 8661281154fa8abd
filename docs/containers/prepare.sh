#!/bin/sh
# Makes the token, the CA and the certificates of the three nodes in compose.yaml, where
# this script is: folder secrets, for this user only. Run it once, where mpreg_nb[tls] is
# installed.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
mpreg-nb token show > secrets/token
mpreg-nb tls init --out secrets
for node in n1 n2 n3; do
    mpreg-nb tls node "$node" "$node" --out secrets
done
