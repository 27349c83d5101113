package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// network is an Ethernet with machines on it: network namespaces with an address
// each, on a bridge in a namespace of its own. All of it goes with the processes
// that hold the namespaces, which end with the test however that ends.
type network struct {
	hub  *namespace
	next int
}

// namespace is a network namespace.
type namespace struct{ pid int }

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	needRoot(t)
	p := start(t, exec.Command("unshare", "--net", "sleep", "infinity"))
	n := &namespace{p.cmd.Process.Pid}
	eventually(t, "a network namespace", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n.pid))
		return string(b) == "sleep\n"
	})
	return n
}

// in is the command that runs another in the namespace.
func (n *namespace) in() []string {
	return []string{"nsenter", "--net", "--target", fmt.Sprint(n.pid), "--"}
}

// run runs a command in the namespace, given as words.
func (n *namespace) run(t testing.TB, format string, args ...any) {
	t.Helper()
	words := append(n.in(), strings.Fields(fmt.Sprintf(format, args...))...)
	tool{}.run(t, words[0], words[1:]...)
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	w := &network{hub: newNamespace(t)}
	w.hub.run(t, "ip link add hub type bridge")
	w.hub.run(t, "ip link set hub up")
	return w
}

// machine is a node on a network, at an address of its own.
type machine struct {
	*node
	*namespace
	w    *network
	port string // its end at the hub
	ip   string
}

// machine adds a machine, with the bucket work when it is the first.
func (w *network) machine(t testing.TB) *machine {
	t.Helper()
	w.next++
	m := &machine{node: newNode(t, w.next == 1), namespace: newNamespace(t), w: w, port: fmt.Sprint("port", w.next)}
	m.node.in = m.namespace.in()
	w.hub.run(t, "ip link add %s type veth peer name eth0 netns %d", m.port, m.namespace.pid)
	w.hub.run(t, "ip link set %s up", m.port)
	m.namespace.run(t, "ip link set lo up")
	m.namespace.run(t, "ip link set eth0 up")
	m.move(t, fmt.Sprintf("10.77.0.%d", w.next))
	m.plug(t)
	return m
}

// leave takes the machine's address away.
func (m *machine) leave(t testing.TB) {
	t.Helper()
	m.namespace.run(t, "ip addr del %s/24 dev eth0", m.ip)
	m.ip = ""
}

// move gives the machine another address. What listens at its address alone does so
// from its next start on.
func (m *machine) move(t testing.TB, ip string) {
	t.Helper()
	if m.ip != "" {
		m.leave(t)
	}
	m.namespace.run(t, "ip addr add %s/24 dev eth0", ip)
	m.ip, m.addr = ip, ip+":4747"
}

// unplug loses everything that the machine sends, and all that is sent to it.
func (m *machine) unplug(t testing.TB) {
	t.Helper()
	m.w.hub.run(t, "ip link set %s nomaster", m.port)
}

func (m *machine) plug(t testing.TB) {
	t.Helper()
	m.w.hub.run(t, "ip link set %s master hub", m.port)
}

// throttle bounds what the machine sends, in kilobits a second; 0: not at all.
func (m *machine) throttle(t testing.TB, kbit int) {
	t.Helper()
	if kbit == 0 {
		m.namespace.run(t, "tc qdisc del dev eth0 root")
		return
	}
	m.namespace.run(t, "tc qdisc replace dev eth0 root tbf rate %dkbit burst 16k latency 100ms", kbit)
}
