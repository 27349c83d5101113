package access

import (
	"errors"
	"reflect"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/schema"
)

func TestWidestGrantCounts(t *testing.T) {
	r := Rights{Grants: []Grant{
		{Bucket: 3, Branches: "*", Level: Read},
		{Bucket: 3, Branches: "agent-*", Level: Write},
		{Bucket: 4, Branches: "main", Level: Read},
	}}
	for _, c := range []struct {
		bucket int64
		name   string
		want   Level
	}{
		{3, "main", Read}, {3, "agent-a", Write}, {3, "Agent-a", Read},
		{4, "main", Read}, {4, "Main", None}, {4, "main2", None}, {5, "main", None},
	} {
		if got := r.Branch(c.bucket, c.name); got != c.want {
			t.Errorf("%d/%s: got %v, want %v", c.bucket, c.name, got, c.want)
		}
	}
	if !r.Bucket(4) || r.Bucket(5) {
		t.Error("buckets seen do not match the grants")
	}
	all := Rights{Grants: []Grant{{Branches: "*", Level: Write}}}
	if !all.Bucket(9) || all.Branch(9, "x") != Write {
		t.Error("a grant for every bucket does not cover one")
	}
}

func TestUsersKeysAndGrants(t *testing.T) {
	db, err := schema.Open(t.Context(), t.TempDir(), schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Write(func(tx *schema.Tx) error {
		u, err := AddUser(tx, "ann")
		if err != nil {
			return err
		}
		if _, err := AddUser(tx, "ann"); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("second ann: %v", err)
		}
		if _, err := AddUser(tx, "../x"); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("bad name: %v", err)
		}
		for range 2 {
			if err := AddKey(tx, u.ID, Key{Blob: []byte("k1"), Comment: "laptop"}); err != nil {
				return err
			}
		}
		all := Grant{Name: "*", Branches: "*", Level: Write}
		for _, level := range []Level{Write, Read} { // the second replaces the first
			all.Level = level
			if err := Allow(tx, u.ID, all); err != nil {
				return err
			}
		}
		got, err := UserByName(tx, "ann")
		if err != nil {
			return err
		}
		if len(got.Keys) != 1 || !reflect.DeepEqual(got.Grants, []Grant{all}) {
			t.Errorf("got %+v", got)
		}
		if id, err := HasKey(tx, "ann", []byte("k1")); id != u.ID || err != nil {
			t.Errorf("HasKey: %d, %v", id, err)
		}
		if id, _ := HasKey(tx, "ann", []byte("k2")); id != 0 {
			t.Error("an unknown key is taken for a user's")
		}
		if err := Revoke(tx, u.ID, all); err != nil {
			return err
		}
		if err := Revoke(tx, u.ID, all); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("second revoke: %v", err)
		}
		if err := RemoveUser(tx, "ann"); err != nil {
			return err
		}
		again, err := AddUser(tx, "ann")
		if err != nil {
			return err
		}
		if again.ID == u.ID {
			t.Error("a user id was reused")
		}
		if id, _ := HasKey(tx, "ann", []byte("k1")); id != 0 {
			t.Error("a removed user's key still works")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
