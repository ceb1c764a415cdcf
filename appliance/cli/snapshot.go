package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
)

func newSnapshot(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "snapshot", Short: "Back a cluster up, look at backups, restore one", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newSnapshotSave(s, &t), newSnapshotInspect(s), newSnapshotVerify(s), newSnapshotRestore(s))
	return c
}

// saveFlags are those of `snapshot save`.
type saveFlags struct {
	encrypt encryptFlags
	force   bool
	form    outputForm
}

func newSnapshotSave(s streams, t *target) *cobra.Command {
	var f saveFlags
	c := &cobra.Command{
		Use:   "save FILE|-",
		Short: "Back up the whole cluster into a file while it goes on working",
		Long: `Writes metrics, logs, events, users, agents, rules, alerts and the audit log, all as of one moment, into FILE or to
standard output. The node that is asked makes the backup; any node can. FILE appears only when it is complete.

With --recipient or --passphrase the backup is encrypted and holds the private keys of the cluster's CA, so that agents
go on working after a restore. Without, it holds none, and agents must be registered again.`,
		Example: "  triward snapshot save /backup/site.triward --recipient age1...\n  triward snapshot save - | ssh host 'cat > site.triward'",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			req, err := f.encrypt.request(s)
			if err != nil {
				return err
			}
			return saveTo(c.Context(), s, cl, req, args[0], &f)
		},
	}
	f.encrypt.flags(c)
	f.form.flag(c)
	c.Flags().BoolVar(&f.force, "force", false, "replace FILE when it exists")
	return c
}

// savedAnswer is what `snapshot save -o json` prints.
type savedAnswer struct {
	File   string           `json:"file"`
	Bytes  int64            `json:"bytes"`
	TookS  float64          `json:"took_s"`
	Header container.Header `json:"header"`
}

func saveTo(ctx context.Context, s streams, cl *client, req api.SnapshotRequest, file string, f *saveFlags) error {
	out, err := createTarget(s, file, f.force)
	if err != nil {
		return err
	}
	defer out.abandon()
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	began := time.Now()
	resp, err := cl.reach(ctx, http.MethodPost, "/v1/snapshot", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return fmt.Errorf("read answer of %s: %w", resp.Request.URL.Host, err)
		}
		return newAPIError(resp, answer)
	}
	if w := resp.Header.Get(api.WarningHeader); w != "" {
		fmt.Fprintf(s.err, "warning: %s\n", printable(w))
	}
	image, _ := strconv.ParseInt(resp.Header.Get(api.SnapshotBytesHeader), 10, 64)
	p := newProgress(s.err, "receiving", 0)
	if image > 0 {
		p.note = " of a state of " + bytesText(image)
	}
	// What arrives is checked as it passes, so that a connection which was cut leaves no file.
	h, n, err := backup.CheckContainer(io.TeeReader(p.reader(resp.Body), out))
	p.end()
	if err != nil {
		return fmt.Errorf("receive backup: %w", err)
	}
	if err := out.commit(); err != nil {
		return err
	}
	return printSaved(s, f, savedAnswer{File: file, Bytes: n, TookS: time.Since(began).Seconds(), Header: h})
}

func printSaved(s streams, f *saveFlags, a savedAnswer) error {
	out := s.out
	if a.File == "-" {
		out = s.err // standard output is the backup
	}
	if f.form.json() {
		return writeJSON(out, a)
	}
	fmt.Fprintf(out, "file       %s (%s in %s)\n", a.File, bytesText(a.Bytes), time.Duration(a.TookS*float64(time.Second)).Round(time.Millisecond))
	printHeader(out, &a.Header)
	if a.Header.Encryption == "" {
		fmt.Fprintln(s.err, "Not encrypted, so without the cluster's private keys: after a restore agents must be registered again.")
	}
	return nil
}

func printHeader(w io.Writer, h *container.Header) {
	how := "not encrypted, without the cluster's private keys"
	switch {
	case h.Encryption != "" && h.Keys:
		how = "encrypted (" + h.Encryption + "), with the cluster's private keys"
	case h.Encryption != "":
		how = "encrypted (" + h.Encryption + "), without the cluster's private keys"
	}
	fmt.Fprintf(w, "cluster    %s, by node %s, triward %s\n", printable(h.Cluster), printable(h.Node), printable(h.Program))
	fmt.Fprintf(w, "made       %s\n", time.UnixMilli(h.Created).Format(time.RFC3339))
	fmt.Fprintf(w, "as of      entry %d, log time %s\n", h.Index, time.UnixMilli(h.LogTime).Format(time.RFC3339))
	fmt.Fprintf(w, "format     %d\n", h.Format)
	fmt.Fprintf(w, "state      %s before compression\n", bytesText(h.ImageBytes))
	fmt.Fprintf(w, "digest     %s\n", printable(h.Digest))
	fmt.Fprintf(w, "protection %s\n", how)
}

func newSnapshotInspect(s streams) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "inspect FILE|-",
		Short: "Show what a backup is of, without a key",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in, _, err := openBackup(s, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			r, err := container.NewReader(in)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if form.json() {
				return writeJSON(s.out, r.Header)
			}
			printHeader(s.out, &r.Header)
			return nil
		},
	}
	form.flag(c)
	return c
}

// openBackup opens a file for reading; size is 0 when it is not known.
func openBackup(s streams, name string) (in io.ReadCloser, size int64, err error) {
	if name == "-" {
		return io.NopCloser(s.in), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("open backup: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("open backup: %s is a directory", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// saveTarget is where a backup goes: it appears whole or not at all.
type saveTarget struct {
	io.Writer
	file   *os.File // nil for standard output
	path   string
	closed bool
}

func createTarget(s streams, path string, force bool) (*saveTarget, error) {
	if path == "-" {
		if isTerminal(s.out) {
			return nil, errors.New("standard output is a terminal; name a file or send the output somewhere")
		}
		return &saveTarget{Writer: s.out}, nil
	}
	if st, err := os.Stat(path); err == nil && (!force || !st.Mode().IsRegular()) {
		return nil, fmt.Errorf("%s exists already; remove it or give --force", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".partial-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("write backup: %w", err)
	}
	return &saveTarget{Writer: f, file: f, path: path}, nil
}

// commit makes the file durable under its name.
func (t *saveTarget) commit() error {
	if t.file == nil {
		return nil
	}
	t.closed = true
	err := t.file.Sync()
	if err = errors.Join(err, t.file.Close()); err == nil {
		if err = os.Rename(t.file.Name(), t.path); err == nil {
			return syncFolder(filepath.Dir(t.path))
		}
	}
	_ = os.Remove(t.file.Name())
	return fmt.Errorf("write backup %s: %w", t.path, err)
}

// abandon removes what was not committed.
func (t *saveTarget) abandon() {
	if t.file == nil || t.closed {
		return
	}
	t.closed = true
	_ = t.file.Close()
	_ = os.Remove(t.file.Name())
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// encryptFlags say for whom a backup is encrypted.
type encryptFlags struct {
	recipients []string
	files      []string
	passphrase passphraseFlags
}

func (e *encryptFlags) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&e.recipients, "recipient", nil, "encrypt for this public key (age1...); may be given again")
	c.Flags().StringArrayVar(&e.files, "recipients-file", nil, "encrypt for the public keys in this file, one a line")
	e.passphrase.flags(c, "encrypt with")
}

func (e *encryptFlags) request(s streams) (api.SnapshotRequest, error) {
	req := api.SnapshotRequest{Recipients: e.recipients}
	for _, name := range e.files {
		body, err := os.ReadFile(name)
		if err != nil {
			return req, fmt.Errorf("read recipients: %w", err)
		}
		keys, err := backup.ReadRecipients(bytes.NewReader(body))
		if err != nil {
			return req, fmt.Errorf("%s: %w", name, err)
		}
		if len(keys) == 0 {
			return req, fmt.Errorf("%s holds no public key", name)
		}
		req.Recipients = append(req.Recipients, keys...)
	}
	var err error
	if req.Passphrase, err = e.passphrase.read(s, true); err != nil {
		return req, err
	}
	_, err = backup.Recipients(req.Recipients, req.Passphrase)
	return req, err
}
