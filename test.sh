#!/usr/bin/env bash
# test.sh installs what the tests need, then checks and tests everything.
#
#   ./test.sh             all checks and all tests (some twenty minutes on two cores)
#   ./test.sh nightly     the long variants too (the 200-round kill loop, 4 GiB files, 30 minutes
#                         of churn, …)
#
# Every test file lives below one temporary directory, which is unmounted and
# removed at the end, whatever happened. The exit status is not 0 when a step
# failed; the last line says which.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec </dev/null

tags=() sims=() mode=${1:-}
[ "$mode" = nightly ] && tags=(-tags nightly)

export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 GIT_TERMINAL_PROMPT=0
export GORACE="atexit_sleep_ms=10 ${GORACE:-}" # or each command of a script waits a second at its end
unset ALKFS_STORE

step=start failed=()
begin() { step=$1; printf '\n=== %s (%s)\n' "$step" "$(date +%T)"; }
fail() { failed+=("$step"); printf '!!! FAILED: %s\n' "$step"; }

top=$(mktemp -d "${TMPDIR:-/tmp}/alkfs-test.XXXXXX") || exit 1
chmod 755 "$top" # ordinary users must reach the stores the tests make for them
export TMPDIR=$top
unmount_below() { # deepest first, so that a mount inside a mount goes before it
	awk -v top="$1/" 'index($5, top) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
		while IFS= read -r dir; do umount -l -- "$(printf '%b' "$dir")" || fusermount3 -uz -- "$(printf '%b' "$dir")"; done 2>/dev/null
}
cleanup() {
	unmount_below "$top"
	chmod -R u+rwX "$top" 2>/dev/null
	rm -rf --one-file-system "$top" 2>/dev/null || { sleep 1; unmount_below "$top"; rm -rf --one-file-system "$top"; }
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

begin "packages"
want=(
	fusermount3:fuse3 rsync:rsync sqlite3:sqlite3 vim:vim git:git gcc:gcc npm:npm node:nodejs
	setfattr:attr setfacl:acl mkfs.ext4:e2fsprogs losetup:mount setpriv:util-linux
	ssh:openssh-client sshfs:sshfs lftp:lftp rclone:rclone python3:python3 make:make
	strace:strace tar:tar useradd:passwd diff:diffutils xxd:xxd ip:iproute2
)
missing() {
	local pair
	for pair in "${want[@]}"; do command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"; done
	/usr/bin/python3 -c 'import paramiko' 2>/dev/null || echo python3-paramiko
	[ -e /usr/include/stdio.h ] || echo libc6-dev
}
need=$(missing | sort -u)
if [ -n "$need" ] && command -v apt-get >/dev/null; then
	echo "installing:" $need
	for try in 1 2 3; do
		apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 update &&
			apt-get -qq -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 --no-install-recommends install $need >"$top/apt.log" 2>&1 && break
		tail -n 5 "$top/apt.log" 2>/dev/null
		sleep $((try * 5))
	done
	need=$(missing | sort -u)
fi
if [ -n "$need" ]; then
	# Not fatal by itself: the tests that need one of these will say so.
	echo "still missing:" $need
fi
# go-fuse mounts through fusermount3 when not root; others than the owner may
# look into such a mount only if this is set.
if [ "$(id -u)" = 0 ] && ! grep -qs '^user_allow_other' /etc/fuse.conf; then
	echo user_allow_other >>/etc/fuse.conf
fi
# Everybody may open /dev/fuse where udev made it.
if [ "$(id -u)" = 0 ]; then
	[ -c /dev/fuse ] || mknod /dev/fuse c 10 229
	chmod 666 /dev/fuse
fi
echo "go: $(go version)"; uname -rm; nproc; df -h "$top" | tail -n 1

begin "build"
for try in 1 2 3; do # again only for the network's sake
	go list -deps -test ./... >/dev/null && built=yes && break
	sleep $((try * 5))
done
go build ./... && [ "${built:-}" = yes ] || fail

begin "gofmt"
unformatted=$(find . -name '*.go' -not -path './.*' -print0 | xargs -0r gofmt -l) || fail
[ -z "$unformatted" ] || { echo "$unformatted"; fail; }

begin "go vet"
go vet ./... || fail
go vet -tags nightly ./... || fail
go vet -tags simseeded ./crdtsync || fail

begin "staticcheck"
go tool staticcheck ./... || fail

# The packages by themselves first; then integration, which mounts and kills
# processes and wants the machine for itself. What it tests are those processes,
# one of which it builds with -race; the test program itself needs no -race.
begin "go test -race (packages)"
packages=$(go list ./... | grep -v '/integration') || fail
go test -race "${tags[@]}" -timeout 40m $packages 2>&1 | tee "$top/packages.log" || fail

# Many histories of nodes on a bad network, without -race, with which
# they take thirty times as long; two at a time, nightly one of them with more
# faults (-sim.harsh). The runtime is one that does the same each time, so that a
# seed that fails can be replayed; with a Go that it cannot be made of, the
# histories run all the same.
begin "go test (simulation)"
traces=${ALKFS_SIM_TRACES:-/tmp} # of what failed; they are not removed
if overlay=$(go run ./crdtsync/seededgo); then
	seeded=(-tags "simseeded${mode:+,$mode}" -overlay "$overlay")
	go test "${seeded[@]}" -timeout 40m -run '^TestSimulationReplays$' ./crdtsync -sim.runs=40 -sim.keep="$traces" || fail
else
	seeded=("${tags[@]}")
	[ -z "${CI:-}" ] || fail
fi
histories=1000
[ "$mode" = nightly ] && histories=20000
for half in 0 1; do
	go test "${seeded[@]}" -timeout 150m -run '^TestSimulation$' ./crdtsync -sim.runs=$histories -sim.keep="$traces" \
		$([ "$mode" = nightly ] && echo -sim.harsh=$half || echo -sim.from=$((1 + half * histories))) >"$top/simulation.$half.log" 2>&1 &
	sims[half]=$!
done
for half in 0 1; do
	wait "${sims[half]}" || fail
	cat "$top/simulation.$half.log"
done

begin "go test (integration)"
go test "${tags[@]}" -timeout 150m ./integration/... 2>&1 | tee "$top/integration.log" || fail

if [ ${#failed[@]} -gt 0 ]; then
	printf '\n=== what failed\n'
	grep -hE '^(\s*--- FAIL|FAIL|panic:)' "$top"/*.log 2>/dev/null | head -n 100
	printf 'test.sh: FAILED: %s\n' "$(IFS=,; echo "${failed[*]}")"
	exit 1
fi
printf '\ntest.sh: all steps passed\n'
