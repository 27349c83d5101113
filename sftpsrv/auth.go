package sftpsrv

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"

	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// identity is who a connection belongs to and by what. It travels in the
// Permissions that the callback returned for the key that was proved, and
// nowhere else: clients ask about keys that they never use.
type identity struct {
	user        int64
	name        string
	method      string
	fingerprint string
	key         []byte // public key; nil for a certificate or password
	authority   []byte // that signed the certificate
}

type identityKey struct{}

func (id *identity) permissions() *ssh.Permissions {
	return &ssh.Permissions{ExtraData: map[any]any{identityKey{}: id}}
}

var errLogin = errors.New("not allowed to log in")

// handshake does everything up to a known user. tries counts what was refused.
func (s *Server) handshake(nc net.Conn, tries *int) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	ic, err := exchangeIdent(nc)
	if err != nil {
		return nil, nil, nil, err
	}
	config := &ssh.ServerConfig{
		MaxAuthTries:      s.o.MaxTries,
		PublicKeyCallback: s.publicKey,
		ServerVersion:     ident,
		AuthLogCallback: func(conn ssh.ConnMetadata, method string, err error) {
			if err != nil && method != "none" {
				*tries++
				s.log.Debug("authentication tried", "addr", ipOf(conn.RemoteAddr()), "user", conn.User(), "method", method, "error", err)
			}
		},
	}
	config.Ciphers = ic.ciphers()
	if s.o.Passwords {
		config.PasswordCallback = s.password
	}
	config.AddHostKey(s.hostKey)
	return ssh.NewServerConn(ic, config)
}

// publicKey decides about a key or certificate that a client offers. It may be
// asked about many before one is proved, and keeps nothing about them.
func (s *Server) publicKey(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if cert, ok := key.(*ssh.Certificate); ok {
		return s.certificate(conn, cert)
	}
	id := &identity{name: conn.User(), method: "publickey", key: key.Marshal(), fingerprint: ssh.FingerprintSHA256(key)}
	err := s.c.DB.Read(func(tx *schema.Tx) (err error) {
		id.user, err = access.HasKey(tx, id.name, id.key)
		return err
	})
	if err == nil && id.user == 0 {
		err = errLogin
	}
	if err != nil {
		return nil, err
	}
	return id.permissions(), nil
}

// certificate accepts what a trusted authority signed for the user named, who
// must be known here: grants hang on users.
func (s *Server) certificate(conn ssh.ConnMetadata, cert *ssh.Certificate) (*ssh.Permissions, error) {
	if len(cert.ValidPrincipals) == 0 {
		return nil, fmt.Errorf("certificate without principals: %w", errLogin) // would be good for everybody
	}
	id := &identity{
		name: conn.User(), method: "certificate",
		fingerprint: ssh.FingerprintSHA256(cert.Key), authority: cert.SignatureKey.Marshal(),
	}
	var trusted bool
	err := s.c.DB.Read(func(tx *schema.Tx) (err error) {
		if trusted, err = access.IsCA(tx, id.authority); err != nil {
			return err
		}
		u, err := access.UserByName(tx, id.name)
		id.user = u.ID
		return err
	})
	if errors.Is(err, syscall.ENOENT) || (err == nil && !trusted) {
		err = errLogin
	}
	if err != nil {
		return nil, err
	}
	checker := ssh.CertChecker{
		IsUserAuthority: func(auth ssh.PublicKey) bool { return bytes.Equal(auth.Marshal(), id.authority) },
		// x/crypto/ssh enforces this one; any other, force-command above
		// all, makes the certificate unacceptable.
		SupportedCriticalOptions: []string{"source-address"},
	}
	granted, err := checker.Authenticate(conn, cert)
	if err != nil {
		return nil, err
	}
	p := id.permissions()
	p.CriticalOptions = granted.CriticalOptions
	return p, nil
}

// noHash makes the check of a user without a password take as long as that of
// one who has it.
var noHash = sync.OnceValue(func() []byte {
	h, _ := HashPassword("")
	return []byte(h)
})

func (s *Server) password(conn ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
	id := &identity{name: conn.User(), method: "password"}
	var stored string
	err := s.c.DB.Read(func(tx *schema.Tx) (err error) {
		id.user, stored, err = access.PasswordHash(tx, id.name)
		return err
	})
	if err != nil {
		return nil, err
	}
	hash := []byte(stored)
	if stored == "" {
		hash = noHash()
	}
	s.checks <- struct{}{}
	err = bcrypt.CompareHashAndPassword(hash, password)
	<-s.checks
	if err != nil || stored == "" {
		return nil, errLogin
	}
	return id.permissions(), nil
}

// passwordCost is bcrypt's; lower in tests.
var passwordCost = 12

// HashPassword makes what access.SetPassword stores. A password has at most 72
// bytes.
func HashPassword(password string) (string, error) {
	h, err := bcrypt.GenerateFromPassword([]byte(password), passwordCost)
	return string(h), err
}

// valid returns the rights of id as of tx, and an error when it could not log
// in any more.
func (id *identity) valid(tx *schema.Tx) (access.Rights, error) {
	ok := true
	var err error
	switch {
	case id.key != nil:
		var user int64
		user, err = access.HasKey(tx, id.name, id.key)
		ok = user == id.user
	case id.authority != nil:
		ok, err = access.IsCA(tx, id.authority)
	default:
		var user int64
		user, _, err = access.PasswordHash(tx, id.name)
		ok = user == id.user
	}
	if err == nil && !ok {
		err = errLogin
	}
	if err != nil {
		return access.Rights{}, err
	}
	return access.LoadRights(tx, id.user)
}
