package access

import (
	"fmt"
	"regexp"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// User may log in by any of its keys.
type User struct {
	ID       int64
	Name     string
	Password bool // has one
	Created  time.Time
	Keys     []Key
	Grants   []Grant
}

// Key is a public key in the form it has on the wire (RFC 4253 section 6.6).
type Key struct {
	Blob    []byte
	Comment string
	Created time.Time
}

var userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$`)

var changes atomic.Uint64

// Changes returns a number that grows when this process changes users, keys,
// grants or authorities in any store. Rights that were loaded stay true while
// neither it, read before, nor schema.DB.Others, for the other processes, has
// changed.
func Changes() uint64 { return changes.Load() }

// AddUser makes a user without keys or grants.
func AddUser(tx *schema.Tx, name string) (User, error) {
	changes.Add(1)
	if !userName.MatchString(name) {
		return User{}, fmt.Errorf("user name %q: letters, digits, . _ @ - only, 64 at most: %w", name, syscall.EINVAL)
	}
	s := tx.Stmt("INSERT INTO ssh_user (name, created) VALUES (?, ?) ON CONFLICT DO NOTHING")
	now := time.Now()
	s.BindText(1, name)
	s.BindInt64(2, now.UnixNano())
	if _, err := s.Step(); err != nil {
		return User{}, err
	}
	if tx.Conn().Changes() == 0 {
		return User{}, fmt.Errorf("user %s: %w", name, syscall.EEXIST)
	}
	return User{ID: tx.Conn().LastInsertRowID(), Name: name, Created: now}, nil
}

// Users returns all users by name.
func Users(tx *schema.Tx) ([]User, error) {
	s := tx.Stmt("SELECT name FROM ssh_user ORDER BY name")
	var names []string
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		names = append(names, s.ColumnText(0))
	}
	users := make([]User, 0, len(names))
	for _, name := range names {
		u, err := UserByName(tx, name)
		if err != nil {
			return nil, err
		}
		users = append(users, u)
	}
	return users, nil
}

// UserByName returns a user with its keys and grants.
func UserByName(tx *schema.Tx, name string) (User, error) {
	s := tx.Stmt("SELECT id, password IS NOT NULL, created FROM ssh_user WHERE name = ?")
	s.BindText(1, name)
	ok, err := s.Step()
	if err != nil {
		return User{}, err
	}
	if !ok {
		return User{}, fmt.Errorf("user %q: %w", name, syscall.ENOENT)
	}
	u := User{ID: s.ColumnInt64(0), Name: name, Password: s.ColumnBool(1), Created: time.Unix(0, s.ColumnInt64(2))}
	if u.Keys, err = keys(tx, u.ID); err != nil {
		return User{}, err
	}
	u.Grants, err = grants(tx, u.ID)
	return u, err
}

// RemoveUser removes a user with its keys and grants.
func RemoveUser(tx *schema.Tx, name string) error {
	changes.Add(1)
	s := tx.Stmt("DELETE FROM ssh_user WHERE name = ?")
	s.BindText(1, name)
	if _, err := s.Step(); err != nil {
		return err
	}
	if tx.Conn().Changes() == 0 {
		return fmt.Errorf("user %q: %w", name, syscall.ENOENT)
	}
	return nil
}

func keys(tx *schema.Tx, user int64) ([]Key, error) {
	s := tx.Stmt("SELECT key, comment, created FROM ssh_key WHERE user = ? ORDER BY id")
	s.BindInt64(1, user)
	var out []Key
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return out, err
		}
		k := Key{Blob: schema.Bytes(s, 0), Comment: s.ColumnText(1), Created: time.Unix(0, s.ColumnInt64(2))}
		out = append(out, k)
	}
}

// AddKey lets user log in with a key; one it has already is left alone.
func AddKey(tx *schema.Tx, user int64, k Key) error {
	changes.Add(1)
	s := tx.Stmt("INSERT INTO ssh_key (user, key, comment, created) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
	s.BindInt64(1, user)
	s.BindBytes(2, k.Blob)
	s.BindText(3, k.Comment)
	s.BindInt64(4, time.Now().UnixNano())
	_, err := s.Step()
	return err
}

// RemoveKey takes a key from user. Connections made with it end.
func RemoveKey(tx *schema.Tx, user int64, blob []byte) error {
	changes.Add(1)
	s := tx.Stmt("DELETE FROM ssh_key WHERE user = ? AND key = ?")
	s.BindInt64(1, user)
	s.BindBytes(2, blob)
	if _, err := s.Step(); err != nil {
		return err
	}
	if tx.Conn().Changes() == 0 {
		return fmt.Errorf("the user has no such key: %w", syscall.ENOENT)
	}
	return nil
}

// HasKey returns the id of the user name when blob is one of its keys, else 0.
func HasKey(tx *schema.Tx, name string, blob []byte) (int64, error) {
	s := tx.Stmt("SELECT u.id FROM ssh_user AS u JOIN ssh_key AS k ON k.user = u.id WHERE u.name = ? AND k.key = ?")
	s.BindText(1, name)
	s.BindBytes(2, blob)
	ok, err := s.Step()
	if err != nil || !ok {
		return 0, err
	}
	return s.ColumnInt64(0), nil
}

// SetPassword stores the bcrypt hash of a user's password; "" removes it.
func SetPassword(tx *schema.Tx, user int64, hash string) error {
	changes.Add(1)
	s := tx.Stmt("UPDATE ssh_user SET password = nullif(?, '') WHERE id = ?")
	s.BindText(1, hash)
	s.BindInt64(2, user)
	_, err := s.Step()
	return err
}

// PasswordHash returns the id and the bcrypt hash of the user name, 0 and ""
// without one.
func PasswordHash(tx *schema.Tx, name string) (user int64, hash string, err error) {
	s := tx.Stmt("SELECT id, password FROM ssh_user WHERE name = ? AND password IS NOT NULL")
	s.BindText(1, name)
	ok, err := s.Step()
	if err != nil || !ok {
		return 0, "", err
	}
	return s.ColumnInt64(0), s.ColumnText(1), nil
}

// AddCA makes the user certificates signed by a key believed.
func AddCA(tx *schema.Tx, k Key) error {
	changes.Add(1)
	s := tx.Stmt("INSERT INTO ssh_ca (key, comment, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
	s.BindBytes(1, k.Blob)
	s.BindText(2, k.Comment)
	s.BindInt64(3, time.Now().UnixNano())
	_, err := s.Step()
	return err
}

// CAs returns the keys whose certificates are believed.
func CAs(tx *schema.Tx) ([]Key, error) {
	s := tx.Stmt("SELECT key, comment, created FROM ssh_ca ORDER BY id")
	var out []Key
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return out, err
		}
		k := Key{Blob: schema.Bytes(s, 0), Comment: s.ColumnText(1), Created: time.Unix(0, s.ColumnInt64(2))}
		out = append(out, k)
	}
}

// RemoveCA stops believing a key. Connections made through it end.
func RemoveCA(tx *schema.Tx, blob []byte) error {
	changes.Add(1)
	s := tx.Stmt("DELETE FROM ssh_ca WHERE key = ?")
	s.BindBytes(1, blob)
	if _, err := s.Step(); err != nil {
		return err
	}
	if tx.Conn().Changes() == 0 {
		return fmt.Errorf("no such authority: %w", syscall.ENOENT)
	}
	return nil
}

// IsCA reports whether certificates signed by a key are believed.
func IsCA(tx *schema.Tx, blob []byte) (bool, error) {
	s := tx.Stmt("SELECT 1 FROM ssh_ca WHERE key = ?")
	s.BindBytes(1, blob)
	return s.Step()
}
