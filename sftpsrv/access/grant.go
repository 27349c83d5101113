package access

import (
	"fmt"
	"path"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Level is what may be done with a branch.
type Level int

// The levels, each including those before it.
const (
	None Level = iota
	Read
	Write
)

func (l Level) String() string { return [...]string{"none", "ro", "rw"}[l] }

// Grant allows a user something.
type Grant struct {
	Bucket   int64  // 0: every bucket
	Name     string // of the bucket; "*" for every bucket
	Branches string // glob as in path.Match
	Level    Level  // Read or Write
}

func (g Grant) String() string { return g.Name + "/" + g.Branches + "=" + g.Level.String() }

// ParseGrant reads BUCKET[/BRANCH-GLOB][=ro|rw]. BUCKET is the name of an
// existing bucket or * for all, the glob is * unless given, the level rw.
func ParseGrant(tx *schema.Tx, t *pathtree.Tree, s string) (Grant, error) {
	place, level, given := strings.Cut(s, "=")
	g := Grant{Level: Write}
	switch {
	case !given || level == "rw":
	case level == "ro":
		g.Level = Read
	default:
		return g, fmt.Errorf("grant %q: what follows = is ro or rw: %w", s, syscall.EINVAL)
	}
	var more bool
	g.Name, g.Branches, more = strings.Cut(place, "/")
	if !more {
		g.Branches = "*"
	}
	if _, err := path.Match(g.Branches, ""); err != nil || g.Branches == "" {
		return g, fmt.Errorf("grant %q: %q is not a glob: %w", s, g.Branches, syscall.EINVAL)
	}
	if g.Name == "*" {
		return g, nil
	}
	b, err := t.Bucket(tx, g.Name)
	if err != nil {
		return g, fmt.Errorf("grant %q: %w", s, err)
	}
	g.Bucket = b.ID
	return g, nil
}

// Allow gives user a grant, in place of one for the same bucket and glob.
func Allow(tx *schema.Tx, user int64, g Grant) error {
	if _, err := deleteGrant(tx, user, g); err != nil {
		return err
	}
	s := tx.Stmt("INSERT INTO ssh_grant (user, bucket, branches, writes) VALUES (?, nullif(?, 0), ?, ?)")
	s.BindInt64(1, user)
	s.BindInt64(2, g.Bucket)
	s.BindText(3, g.Branches)
	s.BindBool(4, g.Level == Write)
	_, err := s.Step()
	return err
}

// Revoke takes back the grants of user for the bucket and glob of g, whatever
// their level; with an empty glob all for that bucket.
func Revoke(tx *schema.Tx, user int64, g Grant) error {
	n, err := deleteGrant(tx, user, g)
	if err == nil && n == 0 {
		err = fmt.Errorf("no grant for %s/%s: %w", g.Name, g.Branches, syscall.ENOENT)
	}
	return err
}

func deleteGrant(tx *schema.Tx, user int64, g Grant) (int, error) {
	changes.Add(1)
	s := tx.Stmt("DELETE FROM ssh_grant WHERE user = ? AND ifnull(bucket, 0) = ? AND ? IN ('', branches)")
	s.BindInt64(1, user)
	s.BindInt64(2, g.Bucket)
	s.BindText(3, g.Branches)
	_, err := s.Step()
	return tx.Conn().Changes(), err
}

func grants(tx *schema.Tx, user int64) ([]Grant, error) {
	s := tx.Stmt(`SELECT ifnull(g.bucket, 0), ifnull(b.name, '*'), g.branches, g.writes
		FROM ssh_grant AS g LEFT JOIN bucket AS b ON b.id = g.bucket
		WHERE g.user = ? ORDER BY b.name, g.branches`)
	s.BindInt64(1, user)
	var out []Grant
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return out, err
		}
		g := Grant{Bucket: s.ColumnInt64(0), Name: s.ColumnText(1), Branches: s.ColumnText(2), Level: Read}
		if s.ColumnBool(3) {
			g.Level = Write
		}
		out = append(out, g)
	}
}

// Rights is what a user may do, as of when it was loaded.
type Rights struct {
	User   int64
	Name   string
	Grants []Grant
}

// LoadRights returns the rights of a user by id, ENOENT when there is none.
func LoadRights(tx *schema.Tx, user int64) (Rights, error) {
	s := tx.Stmt("SELECT name FROM ssh_user WHERE id = ?")
	s.BindInt64(1, user)
	ok, err := s.Step()
	if err != nil {
		return Rights{}, err
	}
	if !ok {
		return Rights{}, fmt.Errorf("user %d: %w", user, syscall.ENOENT)
	}
	r := Rights{User: user, Name: s.ColumnText(0)}
	r.Grants, err = grants(tx, user)
	return r, err
}

// Bucket reports whether anything of a bucket may be seen.
func (r *Rights) Bucket(bucket int64) bool {
	for _, g := range r.Grants {
		if g.Bucket == 0 || g.Bucket == bucket {
			return true
		}
	}
	return false
}

// Branch returns what may be done with a branch, whether or not it exists.
func (r *Rights) Branch(bucket int64, name string) Level {
	level := None
	for _, g := range r.Grants {
		if g.Bucket != 0 && g.Bucket != bucket {
			continue
		}
		if ok, err := path.Match(g.Branches, name); err == nil && ok {
			level = max(level, g.Level)
		}
	}
	return level
}
