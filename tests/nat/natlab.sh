#!/usr/bin/env bash
# natlab.sh - two clients behind two emulated NATs and one public host, in network namespaces.
# Needs root, iproute2, nftables (>= 1.0), python3. Uses no kernel netem: loss is nftables, delay is a user-space wire.
set -euo pipefail

P=${NATLAB_PREFIX:-nl}            # every namespace is named $P-<who>
STATE=${NATLAB_STATE:-/run/natlab.$P}

help() { cat <<'H'
natlab.sh - NAT laboratory in network namespaces

  natlab.sh up [--nat-a TYPE] [--nat-b TYPE] [--loss PCT] [--delay MS] [--jitter MS] [--udp-timeout SEC] [--second] [--routed]
  natlab.sh exec WHO CMD...      run CMD in a namespace: pub, nata, natb, a, b (and a2 with --second)
  natlab.sh set-nat A|B TYPE     change one NAT; its mappings are flushed
  natlab.sh set-loss PCT         drop PCT % of forwarded packets in each NAT, each way (0 turns it off)
  natlab.sh expire A|B           forget every mapping of one NAT (a router reboot)
  natlab.sh rebind A|B           move one NAT to its second public address (mobile hand-over)
  natlab.sh status               addresses, NAT types, mapping counts
  natlab.sh probe WHO            what mapping and filtering WHO sees (a, b, a2)
  natlab.sh selftest             all types: expected against observed, then the pairwise punch matrix
  natlab.sh down                 remove everything (safe to repeat)

topology
  a  10.1.0.2 --- nata 203.0.113.11 (.21) ---+--- pub 203.0.113.1 .2 .3  (servers go here)
  a2 10.1.0.3 --/                            |
  b  10.2.0.2 --- natb 203.0.113.12 (.22) ---+

  --routed: pub is a router between the two NATs and takes one hop, as a provider does. Without it they share a segment,
  and a packet that lives for two hops reaches the other NAT.

TYPE            mapping (RFC 4787)            filtering                       how
  open          endpoint-independent          none, even with no mapping      static 1:1
  full          endpoint-independent          endpoint-independent            port-keeping snat + learned dnat map
  addr          endpoint-independent          address-dependent               as full, dnat only for known remote address
  port          endpoint-independent          address-and-port-dependent      port-keeping snat, stray packets dropped
  symmetric     address-and-port-dependent    address-and-port-dependent      snat fully-random
  symseq        address-and-port-dependent    address-and-port-dependent      snat, ports handed out in order from 40000
  linux         endpoint-independent until a stray packet comes in first,     plain masquerade, stray packets NOT
                then a new port for that one remote                           dropped by the router (see note)
  udpblock      UDP does not pass; TCP does                                   for fallback tests

notes
  - TCP is ordinary port-keeping snat in every type (random in symmetric and symseq), so WebSocket clients work from a and b.
  - open, full and addr know one owner per port: let a and a2 use different local UDP ports.
  - linux: a router whose INPUT lets the peer's first punch packet in confirms a conntrack entry for it; the client's own
    packet to that peer then collides and gets another port. This breaks punching that 'port' would pass: test against both.
  - loss applies in each NAT, so a packet from a to b meets it twice.
  - --delay/--jitter run a small relay process per side (about 20k packets/s); one-way figure per side, jitter reorders packets.
  - Hairpinning (a to a2 through the public address) is refused, as in many home routers.
environment: NATLAB_PREFIX (nl), NATLAB_STATE (/run/natlab.PREFIX). Two labs with different prefixes can be up at once.
H
}
die() { echo "natlab: $*" >&2; exit 1; }
n() { local who=$1; shift; ip netns exec "$P-$who" "$@"; }
side() { case $1 in A|a) echo a;; B|b) echo b;; *) die "side is A or B";; esac; }
wanip() { local k=$1 alt; alt=$(cat "$STATE/alt.$k" 2>/dev/null || echo 0); local last=11; [ "$k" = b ] && last=12; [ "$alt" = 1 ] && last=$((last+10)); echo "203.0.113.$last"; }
lan() { [ "$1" = a ] && echo 10.1.0 || echo 10.2.0; }

nat_rules() { # side type loss -> nft script
  local k=$1 t=$2 loss=$3 wan lan to; wan=$(wanip "$k"); lan=$(lan "$k"); to=$(cat "$STATE/udp_timeout")
  echo "flush ruleset"
  echo "table ip natlab {"
  echo " map owner { type inet_service : ipv4_addr; flags dynamic,timeout; timeout ${to}s; size 65536; }"
  echo " set known { type inet_service . ipv4_addr; flags dynamic,timeout; timeout ${to}s; size 65536; }"
  echo " chain c_fwd { type filter hook forward priority 0; policy accept;"
  if [ "$loss" != 0 ]; then awk -v p="$loss" 'BEGIN{printf "  numgen random mod 100000 < %d counter drop\n", p*1000}'; fi
  [ "$t" = udpblock ] && echo "  meta l4proto udp drop"
  case $t in full|addr) echo "  iifname lan oifname wan meta l4proto udp update @owner { udp sport : ip saddr }";; esac
  [ "$t" = addr ] && echo "  iifname lan oifname wan meta l4proto udp update @known { udp sport . ip daddr }"
  echo "  iifname wan ct state established,related accept"
  echo "  iifname wan ct status dnat accept"
  echo "  iifname wan drop"
  echo " }"
  echo " chain c_pre { type nat hook prerouting priority dstnat; policy accept;"
  case $t in
    open) echo "  iifname wan ip daddr $wan meta l4proto udp dnat to $lan.2";;
    full) echo "  iifname wan ip daddr $wan meta l4proto udp dnat to udp dport map @owner";;
    addr) echo "  iifname wan ip daddr $wan udp dport . ip saddr @known dnat to udp dport map @owner";;
  esac
  echo " }"
  echo " chain c_inp { type filter hook input priority 0; policy accept;"
  if [ "$t" != linux ]; then echo "  iifname wan meta l4proto { udp, tcp } drop"; fi
  echo "  iifname lan ip daddr $wan meta l4proto { udp, tcp } drop"
  echo " }"
  echo " chain c_post { type nat hook postrouting priority srcnat; policy accept;"
  case $t in
    symmetric) echo "  oifname wan meta l4proto { udp, tcp } snat to $wan fully-random";;
    symseq) printf '  oifname wan meta l4proto udp snat ip to numgen inc mod 2000 map {'
            local i; for ((i=0;i<2000;i++)); do printf '%s%d : %s . %d' "$([ $i -gt 0 ] && echo ', ')" $i "$wan" $((40000+i)); done; echo ' }'
            echo "  oifname wan meta l4proto tcp snat to $wan fully-random";;
    linux) echo "  oifname wan masquerade";;
  esac
  echo "  oifname wan snat to $wan"
  echo " }"; echo "}"
}
apply_nat() { local k=$1 t=$2; case $t in open|full|addr|port|symmetric|symseq|linux|udpblock) ;; *) die "unknown NAT type $t";; esac
  nat_rules "$k" "$t" "$(cat "$STATE/loss")" > "$STATE/nft.$k"; n "nat$k" nft -f "$STATE/nft.$k"; echo "$t" > "$STATE/nat.$k"; }
flush_ct() { # forget the conntrack entries of one NAT: conntrack-tools if there, else a zero timeout trick
  if command -v conntrack >/dev/null; then n "nat$1" conntrack -F >/dev/null 2>&1 || true
  else n "nat$1" nft flush ruleset; n "nat$1" sh -c 'b=$(cat /proc/sys/net/netfilter/nf_conntrack_udp_timeout); for f in nf_conntrack_udp_timeout nf_conntrack_udp_timeout_stream; do echo 1 > /proc/sys/net/netfilter/$f; done; sleep 2; for f in nf_conntrack_udp_timeout nf_conntrack_udp_timeout_stream; do echo $b > /proc/sys/net/netfilter/$f; done'; fi; }

write_py() {
cat > "$STATE/wire.py" <<'PY'
# user-space wire between two interfaces: delay and jitter; argv: if1 if2 delay_ms jitter_ms
import sys, socket, select, heapq, time, random, fcntl, struct, array
a, b, d, j = sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1e3, float(sys.argv[4]) / 1e3
def op(i):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind((i, 0)); s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20); return s
S = [op(a), op(b)]; q = []; c = 0
while True:
    now = time.monotonic()
    while q and q[0][0] <= now:
        _, _, o, f = heapq.heappop(q)
        try: S[o].send(f)
        except OSError: pass
    r, _, _ = select.select(S, [], [], max(0, q[0][0] - now) if q else None)
    now = time.monotonic()
    for s in r:
        for _ in range(64):
            try: f, ad = s.recvfrom(65536)
            except BlockingIOError: break
            if ad[2] == 4: continue            # our own outgoing copy
            c += 1; heapq.heappush(q, (now + max(0, d + random.uniform(-j, j)), c, 1 - S.index(s), f))
PY
cat > "$STATE/csum_off.py" <<'PY'
# switch transmit checksum offload off, so frames seen by the wire are complete; argv: interface
import sys, socket, fcntl, struct, array
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for cmd in (0x17, 0x1f, 0x24):               # set tx checksum, tcp segmentation, generic segmentation
    v = array.array('B', struct.pack('II', cmd, 0))
    try: fcntl.ioctl(s, 0x8946, struct.pack('16sP', sys.argv[1].encode(), v.buffer_info()[0]))
    except OSError: pass
PY
cat > "$STATE/reflect.py" <<'PY'
# in pub: four reflecting sockets (two addresses, two ports) plus a mailbox for the punch test
import socket, select
L = [("203.0.113.1", 7001), ("203.0.113.1", 7002), ("203.0.113.2", 7001), ("203.0.113.2", 7002)]
S = []
for x in L: s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(x); S.append(s)
box = {}
while True:
    for s in select.select(S, [], [])[0]:
        d, a = s.recvfrom(2000); w = d.decode("ascii", "replace").split()
        if w[:1] == ["who"]: s.sendto(("you %s %d" % a).encode(), a)
        elif w[:1] == ["poke"]:                        # answer from another socket
            S[int(w[1])].sendto(("poked %s" % w[1]).encode(), a)
        elif w[:1] == ["meet"]:                        # meet ID ROLE: learn the other's mapped address
            m = box.setdefault(w[1], {}); m[w[2]] = a
            o = [v for k, v in m.items() if k != w[2]]
            s.sendto(("other %s %d" % o[0] if o else "wait").encode(), a)
PY
cat > "$STATE/probe.py" <<'PY'
import socket, sys, time
L = [("203.0.113.1", 7001), ("203.0.113.1", 7002), ("203.0.113.2", 7001), ("203.0.113.2", 7002)]
def sock(t=0.6): s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 0)); s.settimeout(t); return s
def ask(s, m, to, tries=4):
    for _ in range(tries):
        s.sendto(m.encode(), to)
        try:
            while True:
                d, a = s.recvfrom(2000)
                if a == to: return d.decode().split()
        except socket.timeout: pass
    return None
def probe():
    s = sock(); m = [ask(s, "who", t) for t in L[:3]]
    if not all(m): return "none", "none", None
    p = [(x[1], int(x[2])) for x in m]
    mp = "EIM" if p[0] == p[1] == p[2] else "ADM" if p[0] == p[1] else "APDM"
    kept = all(x[1] == s.getsockname()[1] for x in p)
    def filt(i):                                       # fresh socket that only ever spoke to L[0]
        f = sock(0.4); ask(f, "who", L[0])
        for _ in range(3):
            f.sendto(("poke %d" % i).encode(), L[0])
            try:
                while True:
                    d, a = f.recvfrom(2000)
                    if a == L[i]: return True
            except socket.timeout: pass
        return False
    return mp, ("EIF" if filt(3) else "ADF" if filt(1) else "APDF"), dict(ports=[x[1] for x in p], kept=kept)
def punch(mid, role, secs=3.0):
    s = sock(0.2); end = time.time() + 8; o = None
    while time.time() < end and not o:
        r = ask(s, "meet %s %s" % (mid, role), L[0], 1)
        if r and r[0] == "other": o = (r[1], int(r[2]))
    if not o: return "no-rendezvous"
    end = time.time() + secs; seen = None; s.settimeout(0.1); back = False
    while time.time() < end:
        s.sendto(b"punch" if not seen else b"ack", seen or o)
        try:
            d, a = s.recvfrom(2000)
            if d in (b"punch", b"ack") and a not in L: seen = a; back = back or d == b"ack"
        except socket.timeout: pass
    return "ok" if back else "oneway" if seen else "fail"
if sys.argv[1] == "probe":
    mp, fl, x = probe(); print(mp, fl, x["ports"] if x else "", "port-kept" if x and x["kept"] else "")
else: print(punch(sys.argv[2], sys.argv[3]))
PY
}

up() {
  local na=port nb=port loss=0 delay=0 jitter=0 second=0 routed=0 to=60
  while [ $# -gt 0 ]; do case $1 in --nat-a) na=$2; shift 2;; --nat-b) nb=$2; shift 2;; --loss) loss=$2; shift 2;; --delay) delay=$2; shift 2;;
    --jitter) jitter=$2; shift 2;; --udp-timeout) to=$2; shift 2;; --second) second=1; shift;; --routed) routed=1; shift;; *) die "unknown option $1";; esac; done
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -d "$STATE" ] && die "already up (natlab.sh down first)"
  mkdir -p "$STATE"; trap 'down; die "up failed"' ERR
  echo "$loss" > "$STATE/loss"; echo "$to" > "$STATE/udp_timeout"; write_py
  local w k l; for w in pub nata natb a b; do ip netns add "$P-$w"; n $w ip link set lo up; n $w sysctl -qw net.ipv6.conf.all.disable_ipv6=1; done
  n pub ip link add br0 type bridge; n pub ip link set br0 up
  local len=24; [ $routed = 0 ] || { len=32; n pub sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0; }
  for l in 1 2 3; do n pub ip addr add 203.0.113.$l/$len dev br0; done
  for k in a b; do l=$(lan $k)
    n nat$k ip link add wan type veth peer name w$k netns "$P-pub"
    n nat$k ip link add lan type veth peer name eth0 netns "$P-$k"
    if [ "$delay" != 0 ] || [ "$jitter" != 0 ]; then
      n pub ip link add d$k type veth peer name x$k; n pub ip link set d$k up; [ $routed = 1 ] || n pub ip link set x$k master br0; n pub ip link set x$k up
      for w in w$k d$k x$k br0; do n pub python3 "$STATE/csum_off.py" $w; done
      n nat$k python3 "$STATE/csum_off.py" wan; n nat$k python3 "$STATE/csum_off.py" lan; n $k python3 "$STATE/csum_off.py" eth0
      n pub ip link set w$k up
      # shellcheck disable=SC2094
      ip netns exec "$P-pub" python3 "$STATE/wire.py" w$k d$k "$delay" "$jitter" >/dev/null 2>&1 & echo $! >> "$STATE/pids"
    else [ $routed = 1 ] || n pub ip link set w$k master br0; n pub ip link set w$k up; fi
    n nat$k ip link set wan up; n nat$k ip link set lan up; n nat$k ip addr add $l.1/24 dev lan
    local last=11; [ $k = b ] && last=12
    n nat$k ip addr add 203.0.113.$last/$len dev wan; n nat$k ip addr add 203.0.113.$((last+10))/$len dev wan
    if [ $routed = 1 ]; then
      local dev=w$k; [ "$delay" = 0 ] && [ "$jitter" = 0 ] || dev=x$k
      n pub ip route add 203.0.113.$last/32 dev "$dev"; n pub ip route add 203.0.113.$((last+10))/32 dev "$dev"
      n nat$k ip route add 203.0.113.0/24 via 203.0.113.1 dev wan onlink
    fi
    n nat$k sysctl -qw net.ipv4.ip_forward=1
    n $k ip addr add $l.2/24 dev eth0; n $k ip link set eth0 up; n $k ip route add default via $l.1
  done
  if [ $second = 1 ]; then ip netns add "$P-a2"; n a2 ip link set lo up; n a2 sysctl -qw net.ipv6.conf.all.disable_ipv6=1
    # a and a2 share a LAN: a bridge in nata takes over the name "lan"
    n nata ip link set lan down; n nata ip link set lan name l0; n nata ip addr flush dev l0; n nata ip link add lan type bridge; n nata ip link set l0 master lan; n nata ip link set l0 up
    n nata ip link add l1 type veth peer name eth0 netns "$P-a2"; n nata ip link set l1 master lan; n nata ip link set l1 up; n nata ip link set lan up; n nata ip addr add 10.1.0.1/24 dev lan
    n a2 ip addr add 10.1.0.3/24 dev eth0; n a2 ip link set eth0 up; n a2 ip route add default via 10.1.0.1
    if [ "$delay" != 0 ] || [ "$jitter" != 0 ]; then n a2 python3 "$STATE/csum_off.py" eth0; fi
  fi
  apply_nat a "$na"; apply_nat b "$nb"
  for k in a b; do n nat$k sysctl -qw net.netfilter.nf_conntrack_udp_timeout="$to" net.netfilter.nf_conntrack_udp_timeout_stream="$to"; done
  trap - ERR
}
down() {
  local p w
  if [ -f "$STATE/pids" ]; then while read -r p; do kill "$p" 2>/dev/null || true; done < "$STATE/pids"; fi
  for w in a b a2 nata natb pub; do
    if [ -e "/run/netns/$P-$w" ]; then for p in $(ip netns pids "$P-$w" 2>/dev/null); do kill "$p" 2>/dev/null || true; done; ip netns del "$P-$w" || true; fi
  done
  rm -rf "$STATE"
}
need_up() { [ -d "$STATE" ] || die "not up"; }
reflect_on() { if [ -f "$STATE/reflect.pid" ] && kill -0 "$(cat "$STATE/reflect.pid")" 2>/dev/null; then return; fi
  ip netns exec "$P-pub" python3 "$STATE/reflect.py" >/dev/null 2>&1 & echo $! > "$STATE/reflect.pid"; echo $! >> "$STATE/pids"; sleep 0.5; }
selftest() {
  local made=0 rc=0 t got; [ -d "$STATE" ] || { up; made=1; }
  reflect_on
  declare -A want=([open]="EIM EIF" [full]="EIM EIF" [addr]="EIM ADF" [port]="EIM APDF" [symmetric]="APDM APDF" [symseq]="APDM APDF" [linux]="EIM APDF" [udpblock]="none none")
  echo "type        expected    observed"
  for t in open full addr port symmetric symseq linux udpblock; do
    apply_nat a $t; flush_ct a; apply_nat a $t
    got=$(n a python3 "$STATE/probe.py" probe); local ok=ok; [ "$(echo "$got" | cut -d' ' -f1,2)" = "${want[$t]}" ] || { ok=DIFFERS; rc=1; }
    printf '%-11s %-11s %-40s %s\n' $t "${want[$t]}" "$got" $ok
  done
  echo; echo "punch matrix (rows a, columns b): each side sends to the address the public host saw"
  local tb types=(full addr port symmetric symseq linux) i=0; printf '%-11s' ''; for tb in "${types[@]}"; do printf '%-11s' "$tb"; done; echo
  for t in "${types[@]}"; do printf '%-11s' "$t"; for tb in "${types[@]}"; do
      apply_nat a "$t"; apply_nat b "$tb"; flush_ct a; flush_ct b; apply_nat a "$t"; apply_nat b "$tb"; i=$((i+1))
      n b python3 "$STATE/probe.py" punch "m$$.$i" B > "$STATE/pb" & local jp=$!
      got=$(n a python3 "$STATE/probe.py" punch "m$$.$i" A); wait $jp || true
      [ "$got" = "$(cat "$STATE/pb")" ] || got="$got/$(cat "$STATE/pb")"; printf '%-11s' "$got"; done; echo; done
  [ $made = 1 ] && down; return $rc
}
case ${1:-} in
  up) shift; up "$@";;
  down) down;;
  exec) need_up; [ $# -ge 3 ] || die "exec WHO CMD..."; shift; w=$1; shift; exec ip netns exec "$P-$w" "$@";;
  set-nat) need_up; k=$(side "$2"); apply_nat "$k" "$3"; flush_ct "$k"; apply_nat "$k" "$3";;
  set-loss) need_up; echo "$2" > "$STATE/loss"; for k in a b; do apply_nat $k "$(cat "$STATE/nat.$k")"; done;;
  expire) need_up; k=$(side "$2"); flush_ct "$k"; apply_nat "$k" "$(cat "$STATE/nat.$k")";;
  rebind) need_up; k=$(side "$2"); if [ "$(cat "$STATE/alt.$k" 2>/dev/null || echo 0)" = 1 ]; then echo 0 > "$STATE/alt.$k"; else echo 1 > "$STATE/alt.$k"; fi
     flush_ct "$k"; apply_nat "$k" "$(cat "$STATE/nat.$k")"; wanip "$k";;
  status) need_up; for k in a b; do echo "nat$k type=$(cat "$STATE/nat.$k") public=$(wanip $k) loss=$(cat "$STATE/loss")% entries=$(n nat$k cat /proc/sys/net/netfilter/nf_conntrack_count)"; done;;
  probe) need_up; reflect_on; n "$2" python3 "$STATE/probe.py" probe;;
  selftest) selftest;;
  ''|-h|--help|help) help;;
  *) die "unknown verb $1 (--help)";;
esac
