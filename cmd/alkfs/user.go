package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/alkdev/alkfs"
)

func (a *app) userCommand() *cobra.Command {
	return group("user", "Who may use the store over SSH, and what of it",
		`  alkfs user add ann --key ann.pub --grant work=rw
  alkfs user grant ann work/main=ro
  alkfs user ls`,
		a.userAddCommand(), a.userLsCommand(),
		a.userGrantCommand("grant", "Allow a user something more", "  alkfs user grant ann work/main=ro 'work/agent-*=rw'", (*alkfs.Store).Grant),
		a.userGrantCommand("revoke", "Take grants back, also from open connections", "  alkfs user revoke ann work/main", (*alkfs.Store).Revoke),
		a.userRmCommand(), a.userKeyCommand(), a.userCACommand(), a.userPasswordCommand())
}

const grantHelp = `A GRANT is BUCKET[/BRANCH-GLOB][=ro|rw]. BUCKET is a bucket or '*' for all of
them; the glob is over branch names and '*' unless given; rw is meant unless ro is
said. Where several grants cover a branch, the widest counts. With rw a user may
also make branches whose names match, from a main that may be read.`

func (a *app) userAddCommand() *cobra.Command {
	var files, grants []string
	c := &cobra.Command{
		Use: "add NAME --key FILE...", Short: "Make a user who may log in with a public key",
		Long: "Makes a user who may log in with the public keys in FILE (\"-\" is standard\ninput), and may do what the grants allow.\n\n" + grantHelp,
		Example: `  alkfs user add ann --key ~/.ssh/id_ed25519.pub --grant work
  ssh-add -L | alkfs user add ci --key - --grant 'work/ci-*=rw' --grant work/main=ro`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := a.readKeys(files)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error {
				u, err := s.AddUser(args[0], keys, grants)
				if err != nil {
					return err
				}
				return a.printUser(u)
			})
		},
	}
	c.Flags().StringArrayVar(&files, "key", nil, `file with public keys, or "-"`)
	c.Flags().StringArrayVar(&grants, "grant", nil, "what the user may do")
	return c
}

// readKeys reads the public keys in files.
func (a *app) readKeys(files []string) (keys []alkfs.Key, err error) {
	for _, name := range files {
		var text []byte
		if name == "-" {
			text, err = io.ReadAll(io.LimitReader(a.in, 1<<20))
		} else {
			text, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, err
		}
		list, err := alkfs.ParseKeys(text)
		if err != nil {
			return nil, withHint(fmt.Errorf("%s: %w", quote(name), err), "a public key is one line, as in ~/.ssh/id_ed25519.pub")
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("%s holds no public key", quote(name))
		}
		keys = append(keys, list...)
	}
	return keys, nil
}

func (a *app) printUser(u alkfs.User) error {
	if a.json {
		keys, grants := []any{}, []any{}
		for _, k := range u.Keys {
			keys = append(keys, alkfs.KeyName(k))
		}
		for _, g := range u.Grants {
			grants = append(grants, g.String())
		}
		return a.emit("name", u.Name, "created", jsonTime(u.Created), "keys", keys, "grants", grants, "password", u.Password)
	}
	a.printf("%s\n", u.Name)
	for _, k := range u.Keys {
		a.printf("  key    %s\n", quote(alkfs.KeyName(k)))
	}
	if u.Password {
		a.printf("  password\n")
	}
	for _, g := range u.Grants {
		a.printf("  grant  %s\n", quote(g.String()))
	}
	return nil
}

func (a *app) userLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List users with their keys and grants",
		Example: "  alkfs user ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Users()
				for _, u := range list {
					if err == nil {
						err = a.printUser(u)
					}
				}
				return err
			})
		},
	}
}

func (a *app) userGrantCommand(name, short, example string, do func(s *alkfs.Store, user string, grants ...string) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " NAME GRANT...", Short: short, Example: example, Long: short + ".\n\n" + grantHelp,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return do(s, args[0], args[1:]...) })
		},
	}
}

func (a *app) userRmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Short: "Remove users; their connections end",
		Example: "  alkfs user rm ann",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				for _, name := range args {
					if err := s.RemoveUser(name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) userKeyCommand() *cobra.Command {
	add := &cobra.Command{
		Use: "add NAME FILE...", Short: "Let a user log in with further keys",
		Example: "  alkfs user key add ann laptop.pub",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := a.readKeys(args[1:])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return s.AddKeys(args[0], keys) })
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME FINGERPRINT", Short: "Take a key from a user; its connections end",
		Example: "  alkfs user key rm ann SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return s.RemoveKey(args[0], args[1]) })
		},
	}
	return group("key", "A user's keys", "  alkfs user key add ann laptop.pub", add, rm)
}

func (a *app) userCACommand() *cobra.Command {
	add := &cobra.Command{
		Use: "add FILE...", Short: "Believe user certificates signed by these keys",
		Example: "  alkfs user ca add user_ca.pub",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := a.readKeys(args)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error { return s.AddAuthorities(keys) })
		},
	}
	ls := &cobra.Command{
		Use: "ls", Short: "List the authorities",
		Example: "  alkfs user ca ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Authorities()
				for _, k := range list {
					if !a.json {
						a.printf("%s\n", quote(alkfs.KeyName(k)))
					} else if err == nil {
						err = a.emit("key", alkfs.KeyName(k), "created", jsonTime(k.Created))
					}
				}
				return err
			})
		},
	}
	rm := &cobra.Command{
		Use: "rm FINGERPRINT", Short: "Stop believing an authority; connections made through it end",
		Example: "  alkfs user ca rm SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return s.RemoveAuthority(args[0]) })
		},
	}
	return group("ca", "Authorities whose certificates log users in",
		"  alkfs user ca add user_ca.pub\n  ssh-keygen -s user_ca -I laptop -n ann -V +1w id_ed25519.pub", add, ls, rm)
}

func (a *app) userPasswordCommand() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "passwd NAME", Short: "Set a user's password, for servers with --passwords",
		Long:    "Sets a password, read from the terminal or a line of standard input. It counts\nonly while `alkfs serve` runs with --passwords.",
		Example: "  alkfs user passwd ann\n  alkfs user passwd --remove ann",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			password := ""
			if !remove {
				var err error
				if password, err = a.readPassword(); err != nil {
					return err
				}
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return s.SetPassword(args[0], password) })
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take the password away")
	return c
}

func (a *app) readPassword() (string, error) {
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		a.note("Password:")
		p, err := term.ReadPassword(int(f.Fd()))
		if err == nil && len(p) == 0 {
			err = errors.New("an empty password is none")
		}
		return string(p), err
	}
	line, err := bufio.NewReader(io.LimitReader(a.in, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("an empty password is none")
	}
	return line, nil
}

// ownKeys returns the public keys in ~/.ssh that are the caller's own: those
// that anybody must hold who can log in as the caller already.
func ownKeys(home string) (keys []alkfs.Key, err error) {
	list, err := fs.Glob(os.DirFS(home), ".ssh/*.pub")
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, name := range append(list, ".ssh/authorized_keys") {
		text, err := fs.ReadFile(os.DirFS(home), name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			// A line with options is a key for one purpose, or no key.
			one, err := alkfs.ParseKeys([]byte(line))
			if err != nil || len(one) == 0 || seen[string(one[0].Blob)] {
				continue
			}
			seen[string(one[0].Blob)] = true
			keys = append(keys, one[0])
		}
	}
	return keys, nil
}
