// Package target keeps backups: in a folder, or in a bucket of an S3 service.
//
// It promises that a backup appears under its name whole or not at all, that one which exists is never overwritten,
// and that nothing else in the folder or bucket is touched. It imports nothing of Triward.
package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
)

// Errors of targets.
var (
	// ErrInvalid says that a target is described wrongly; the text names what.
	ErrInvalid = errors.New("target")
	// ErrAbsent says that there is no such backup.
	ErrAbsent = errors.New("there is no such backup")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("a backup of that name exists already")
)

// Target keeps backups by name. Names are those that Name accepts. All methods may be called at once.
type Target interface {
	// Put stores what write writes under the name, durably, and returns its size in bytes. When write or the storing
	// fails there is nothing under the name. expected is about how much it will be, 0 when nobody knows.
	Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) (int64, error)
	// Open reads a backup. size is in bytes.
	Open(ctx context.Context, name string) (r io.ReadCloser, size int64, err error)
	// Remove removes a backup; one that is not there is ErrAbsent.
	Remove(ctx context.Context, name string) error
	// OpenRange reads n bytes of a backup from offset on, all that is left when n is negative.
	OpenRange(ctx context.Context, name string, offset, n int64) (io.ReadCloser, error)
	// List calls fn with each whole backup whose name begins with the prefix, in the order of names. It tells what was
	// stored before it was called.
	List(ctx context.Context, prefix string, fn func(Item) error) error
	// Below is the place of that name within this one.
	Below(name string) Target
	// Places calls fn with the name of each place directly below this one that anything lies in or below, whatever it is called.
	// A folder also has those that are empty.
	Places(ctx context.Context, fn func(name string) error) error
	// Check finds out whether backups can be stored, by storing something small and removing it.
	Check(ctx context.Context) error
	// String says where that is, without secrets.
	String() string
}

// Item is a backup as List tells it.
type Item struct {
	Name string
	Size int64 // bytes
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// CheckName refuses what is no name of a backup.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("%w: %.80q is no name for a backup: want 1 to 200 of letters, digits, . _ -", ErrInvalid, name)
	}
	return nil
}

// probeName is what Check stores and removes.
const probeName = "triward-write-test"

// counter counts what is written to w.
type counter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Location is the place in an S3 service that an address names: s3://bucket/prefix.
type Location struct{ Bucket, Prefix string }

var bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// ParseLocation reads s3://bucket/prefix. The prefix has no slash at its ends.
func ParseLocation(raw string) (Location, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "s3" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() != "" {
		return Location{}, fmt.Errorf("%w: %.200q: want s3://bucket/prefix", ErrInvalid, raw)
	}
	if !bucketForm.MatchString(u.Host) {
		return Location{}, fmt.Errorf("%w: %.80q is no name of a bucket", ErrInvalid, u.Host)
	}
	prefix := strings.Trim(u.Path, "/")
	if len(prefix) > 500 || strings.Contains(prefix, "//") || strings.ContainsFunc(prefix, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Location{}, fmt.Errorf("%w: the prefix in %.200q is not usable", ErrInvalid, raw)
	}
	return Location{Bucket: u.Host, Prefix: prefix}, nil
}

// String returns the address.
func (l Location) String() string {
	if l.Prefix == "" {
		return "s3://" + l.Bucket
	}
	return "s3://" + l.Bucket + "/" + l.Prefix
}

// Key is the name of the object that keeps a backup.
func (l Location) Key(name string) string {
	if l.Prefix == "" {
		return name
	}
	return l.Prefix + "/" + name
}
