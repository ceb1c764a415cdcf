//go:build unix

package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is whom a command acts as.
type identity struct {
	uid, gid int
	groups   []int
}

// Become makes a command of root act as the user who owns dir, from its first file on. Changing owners afterwards
// instead would have root follow whatever links that user left there. A directory of root's own stays root's. When
// there is none, it is made for the user named service, if this machine has one.
//
// It is for commands that write to dir, after they have read what only root may read.
func Become(dir, service string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	who, err := ownerOf(dir, service)
	if err != nil || who == nil {
		return err
	}
	err = syscall.Setgroups(who.groups)
	if err == nil {
		err = syscall.Setgid(who.gid)
	}
	if err == nil {
		err = syscall.Setuid(who.uid)
	}
	if err != nil {
		return fmt.Errorf("become the owner of %s (user id %d): %w", dir, who.uid, err)
	}
	return nil
}

// ownerOf returns nil when root is to stay root.
func ownerOf(dir, service string) (*identity, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return makeFor(dir, service)
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil, nil
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err == nil {
		return identityOf(u)
	}
	return &identity{uid: int(st.Uid), gid: int(st.Gid), groups: []int{int(st.Gid)}}, nil
}

func makeFor(dir, service string) (*identity, error) {
	u, err := user.Lookup(service)
	if err != nil {
		return nil, nil // a machine without the package: root makes what it needs for itself
	}
	who, err := identityOf(u)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	if err := os.Lchown(dir, who.uid, who.gid); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return who, nil
}

func identityOf(u *user.User) (*identity, error) {
	who := &identity{}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", u.Username, err)
	}
	for _, n := range []struct {
		text string
		into *int
	}{{u.Uid, &who.uid}, {u.Gid, &who.gid}} {
		if *n.into, err = strconv.Atoi(n.text); err != nil {
			return nil, fmt.Errorf("user %s: %w", u.Username, err)
		}
	}
	for _, text := range ids {
		gid, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", u.Username, err)
		}
		who.groups = append(who.groups, gid)
	}
	return who, nil
}
