package crdtsync

import (
	"strings"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// check returns what Check reports of s.
func (s *store) check() (problems []string) {
	s.t.Helper()
	err := s.db.Snapshot(func(tx *schema.Tx) error {
		return Check(tx, true, func(problem string) { problems = append(problems, problem) })
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return problems
}

// TestCheck damages what is kept of changes in each way that Check knows, of two
// authors and with stubs.
func TestCheck(t *testing.T) {
	for _, c := range []struct{ damage, want string }{
		{`DELETE FROM sync_change WHERE arrived = (SELECT min(arrived) FROM sync_change WHERE source = 2)`, "number 2 follows 0"},
		{`DELETE FROM sync_change WHERE (author, stream, seq) IN (SELECT author, stream, max(seq) FROM sync_change GROUP BY 1, 2 LIMIT 1)`, "as noted"},
		{`DELETE FROM sync_stub WHERE rowid = (SELECT min(rowid) FROM sync_stub)`, "follows"},
		{`DELETE FROM sync_stream WHERE author = 2`, "streams that are not known"},
		{`UPDATE sync_stream SET seq = seq + 1`, "as noted"},
		{`UPDATE sync_stream SET last = zeroblob(32)`, "or another change"},
		{`UPDATE sync_change SET envelope = substr(envelope, 1, length(envelope) - 1)`, "change"},
		{`UPDATE sync_stub SET sig = zeroblob(64)`, "signature"},
		{`UPDATE sync_stub SET prev = zeroblob(32) WHERE seq > 1`, "does not follow"},
		{`UPDATE sync_change SET hash = zeroblob(32) WHERE arrived = (SELECT max(arrived) FROM sync_change)`, "not what is noted"},
		{`UPDATE sync_change SET docseq = 9 WHERE arrived = (SELECT max(arrived) FROM sync_change)`, "not what is noted"},
		{`UPDATE sync_change SET maxop = maxop + 1 WHERE arrived = (SELECT min(arrived) FROM sync_change)`, "not what is noted"},
		{`UPDATE sync_change SET doc = (SELECT max(id) FROM sync_doc)`, "of another document"},
		{`UPDATE sync_doc SET heads = x''`, "heads"},
		{`UPDATE sync_doc SET heads = x'00'`, "heads"},
		{`UPDATE sync_doc SET heads = zeroblob(32)`, "heads"},
		{`DELETE FROM sync_change WHERE arrived = (SELECT c.arrived FROM sync_change c WHERE docseq = 1 AND
			EXISTS (SELECT 1 FROM sync_change d WHERE d.doc = c.doc AND d.docseq = 2) LIMIT 1)`, "follows a change that is not there"},
	} {
		t.Run(c.damage, func(t *testing.T) {
			a, p, b, _ := partialByHand(t)
			for _, name := range []string{"one", "two"} {
				a.write(b, name, name)
				p.write(b, "by-p", name)
				send(t, a, p, b)
				send(t, p, a, b)
			}
			for _, s := range []*store{a, p} {
				if problems := s.check(); len(problems) > 0 {
					t.Fatalf("%s, before it is damaged: %q", s.name, problems)
				}
			}
			err := p.db.Write(func(tx *schema.Tx) error {
				_, err := tx.Stmt(c.damage).Step()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			problems := p.check()
			if len(problems) == 0 || !strings.Contains(strings.Join(problems, "\n"), c.want) {
				t.Errorf("reported %q, not %q", problems, c.want)
			}
		})
	}
}

// TestCheckOfSignatures has a change that its author did not sign.
func TestCheckOfSignatures(t *testing.T) {
	a, p, _, _ := partialByHand(t)
	forged := identity.Envelope{}
	err := p.db.Write(func(tx *schema.Tx) error {
		s := tx.Stmt(`SELECT arrived, envelope FROM sync_change ORDER BY arrived DESC LIMIT 1`)
		if _, err := s.Step(); err != nil {
			return err
		}
		at := s.ColumnInt64(0)
		var err error
		if forged, err = identity.DecodeEnvelope(schema.Bytes(s, 1)); err != nil {
			return err
		}
		s.Step()
		forged.Sig[0] ^= 1
		b, err := forged.Encode()
		if err != nil {
			return err
		}
		s = tx.Stmt(`UPDATE sync_change SET envelope = ? WHERE arrived = ?`)
		s.BindBytes(1, b)
		s.BindInt64(2, at)
		_, err = s.Step()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if problems := p.check(); !strings.Contains(strings.Join(problems, "\n"), "signature") {
		t.Errorf("of %s: %q", a.name, problems)
	}
}
