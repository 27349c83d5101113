package alkfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// Who may use a store over SSH; see sftpsrv/access for the fields.
type (
	User  = access.User
	Key   = access.Key
	Grant = access.Grant
)

// ParseKeys reads public keys in the form of authorized_keys files, without
// options.
func ParseKeys(text []byte) ([]Key, error) { return sftpsrv.ParseKeys(text) }

// KeyName returns the fingerprint, type and comment of a key.
func KeyName(k Key) string { return sftpsrv.KeyName(k) }

// Users returns everybody who may log in, with their keys and grants.
func (s *Store) Users() (list []User, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = access.Users(tx)
		return err
	})
	return list, err
}

// User returns one user.
func (s *Store) User(name string) (u User, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		u, err = access.UserByName(tx, name)
		return userError(name, err)
	})
	return u, err
}

// AddUser makes a user with keys and grants, each written
// BUCKET[/BRANCH-GLOB][=ro|rw].
func (s *Store) AddUser(name string, keys []Key, grants []string) (u User, err error) {
	err = s.write(func(tx *schema.Tx) error {
		u, err := access.AddUser(tx, name)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := access.AddKey(tx, u.ID, k); err != nil {
				return err
			}
		}
		return s.eachGrant(tx, u.ID, grants, access.Allow)
	})
	if err != nil {
		return u, err
	}
	return s.User(name)
}

// RemoveUser removes a user. Connections of it end at their next request.
func (s *Store) RemoveUser(name string) error {
	return s.write(func(tx *schema.Tx) error { return userError(name, access.RemoveUser(tx, name)) })
}

// Grant gives a user grants, each in place of one for the same branches.
func (s *Store) Grant(name string, grants ...string) error {
	return s.withUser(name, func(tx *schema.Tx, u User) error { return s.eachGrant(tx, u.ID, grants, access.Allow) })
}

// Revoke takes grants back, also from open connections. The level need not be
// written.
func (s *Store) Revoke(name string, grants ...string) error {
	return s.withUser(name, func(tx *schema.Tx, u User) error { return s.eachGrant(tx, u.ID, grants, access.Revoke) })
}

func (s *Store) eachGrant(tx *schema.Tx, user int64, grants []string, do func(*schema.Tx, int64, Grant) error) error {
	for _, text := range grants {
		g, err := access.ParseGrant(tx, s.tree, text)
		if err != nil {
			return err
		}
		if err := do(tx, user, g); err != nil {
			return err
		}
	}
	return nil
}

// AddKeys lets a user log in with further keys.
func (s *Store) AddKeys(name string, keys []Key) error {
	return s.withUser(name, func(tx *schema.Tx, u User) error {
		for _, k := range keys {
			if err := access.AddKey(tx, u.ID, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveKey takes the key of that fingerprint from a user.
func (s *Store) RemoveKey(name, fingerprint string) error {
	return s.withUser(name, func(tx *schema.Tx, u User) error {
		k, err := findKey(u.Keys, fingerprint)
		if err != nil {
			return err
		}
		return access.RemoveKey(tx, u.ID, k.Blob)
	})
}

// SetPassword gives a user a password, or none with "". It counts only where
// the server takes passwords.
func (s *Store) SetPassword(name, password string) error {
	hash := ""
	if password != "" {
		var err error
		if hash, err = sftpsrv.HashPassword(password); err != nil {
			return err
		}
	}
	return s.withUser(name, func(tx *schema.Tx, u User) error { return access.SetPassword(tx, u.ID, hash) })
}

// Authorities returns the keys whose user certificates are believed.
func (s *Store) Authorities() (list []Key, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = access.CAs(tx)
		return err
	})
	return list, err
}

// AddAuthorities makes user certificates signed by keys believed, for users of
// the names they carry that exist here.
func (s *Store) AddAuthorities(keys []Key) error {
	return s.write(func(tx *schema.Tx) error {
		for _, k := range keys {
			if err := access.AddCA(tx, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveAuthority stops believing the key of that fingerprint.
func (s *Store) RemoveAuthority(fingerprint string) error {
	return s.write(func(tx *schema.Tx) error {
		list, err := access.CAs(tx)
		if err != nil {
			return err
		}
		k, err := findKey(list, fingerprint)
		if err != nil {
			return err
		}
		return access.RemoveCA(tx, k.Blob)
	})
}

func findKey(keys []Key, fingerprint string) (Key, error) {
	for _, k := range keys {
		name, _, _ := bytes.Cut([]byte(KeyName(k)), []byte(" "))
		if string(name) == fingerprint {
			return k, nil
		}
	}
	return Key{}, &nameError{"there is no key " + fingerprint, fs.ErrNotExist}
}

func (s *Store) withUser(name string, f func(tx *schema.Tx, u User) error) error {
	return s.write(func(tx *schema.Tx) error {
		u, err := access.UserByName(tx, name)
		if err != nil {
			return userError(name, err)
		}
		return f(tx, u)
	})
}

func userError(name string, err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return &nameError{fmt.Sprintf("there is no user %q", name), fs.ErrNotExist}
	}
	return err
}
