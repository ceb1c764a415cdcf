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
	"github.com/triward/triward/appliance/backup/schedule"
)

func newSnapshot(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "snapshot", Short: "Back a cluster up, look at backups, restore one", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newSnapshotSave(s, &t), newSnapshotInspect(s), newSnapshotVerify(s), newSnapshotRestore(s),
		newSnapshotKeygen(s), newSnapshotList(s, &t), newSnapshotCancel(s, &t), newSnapshotSchedule(s, &t), newSnapshotDrill(s, &t))
	return c
}

// saveFlags are those of `snapshot save`.
type saveFlags struct {
	encrypt encryptFlags
	s3      s3Flags
	to      string
	force   bool
	// incremental stores it in a repository.
	incremental bool
	damaged     bool
	form        outputForm
}

func newSnapshotSave(s streams, t *target) *cobra.Command {
	var f saveFlags
	c := &cobra.Command{
		Use:   "save FILE|-|s3://bucket/prefix/name",
		Short: "Back up the whole cluster into a file while it goes on working",
		Long: `Writes metrics, logs, events, users, agents, rules, alerts and the audit log, all as of one moment, into FILE or to
standard output. The node that is asked makes the backup; any node can. FILE appears only when it is complete.

With --recipient or --passphrase the backup is encrypted and holds the private keys of the cluster's CA, so that agents
go on working after a restore. Without, it holds none, and agents must be enrolled again.

A node that knows that its data is damaged, or that it lacks what it once acknowledged, refuses: ask another one. With
--damaged it saves what there is.

With --to instead of FILE the node stores the backup itself, in the folder of its configuration or in S3.`,
		Example: `  triward snapshot save /backup/site.triward --recipient age1...
  triward snapshot save - --recovery | ssh host 'cat > site.triward'
  triward snapshot save --to s3://backups/site --recovery`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (f.to == "") == (len(args) == 0) {
				return errors.New("name a file, - or s3://bucket/prefix/name, or a place with --to; one of them")
			}
			if f.incremental && f.to == "" {
				return errors.New("--incremental: a file is by itself; give --to")
			}
			if f.damaged && f.to != "" {
				return errors.New("--damaged: give a FILE, which takes the place of no other backup, instead of --to")
			}
			if f.to != "" {
				return saveOnServer(c.Context(), s, t, &f)
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			req, err := f.encrypt.request(s)
			if err != nil {
				return err
			}
			req.Damaged = f.damaged
			return saveTo(c.Context(), s, cl, req, args[0], &f)
		},
	}
	f.encrypt.flags(c)
	f.s3.flags(c)
	f.form.flag(c)
	c.Flags().BoolVar(&f.force, "force", false, "replace FILE when it exists")
	c.Flags().BoolVar(&f.incremental, "incremental", false, "with --to: in a repository, where what has not changed since an earlier backup is not stored again")
	c.Flags().BoolVar(&f.damaged, "damaged", false, "save also what the node knows to be damaged or behind, when it is all that is left; the manifest names it")
	c.Flags().StringVar(&f.to, "to", "", "let the node store it: folder (its backup.dir) or s3://bucket/prefix")
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
	to, err := f.destination(s, file)
	if err != nil {
		return err
	}
	defer to.abandon()
	began := time.Now()
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
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
	for _, warning := range resp.Header.Values(api.WarningHeader) {
		fmt.Fprintf(s.err, "warning: %s\n", printable(warning))
	}
	p := newProgress(s.err, "receiving", 0)
	defer p.end()
	image, _ := strconv.ParseInt(resp.Header.Get(api.SnapshotBytesHeader), 10, 64)
	if image > 0 {
		p.note = " of a state of " + bytesText(image)
	}
	a := savedAnswer{File: file}
	err = to.put(ctx, image, func(w io.Writer) (err error) {
		// What arrives is checked as it passes, so that a connection which was cut leaves nothing.
		a.Header, a.Bytes, err = backup.CheckContainer(io.TeeReader(p.reader(resp.Body), w))
		if err != nil {
			return fmt.Errorf("receive backup: %w", err)
		}
		return nil
	})
	p.end()
	if err != nil {
		return err
	}
	a.TookS = time.Since(began).Seconds()
	return printSaved(s, f, a)
}

// destination is where a backup is put: whole or not at all.
type destination interface {
	put(ctx context.Context, expected int64, write func(io.Writer) error) error
	abandon() // when put was not called
}

func (f *saveFlags) destination(s streams, file string) (destination, error) {
	if !isS3(file) {
		return createTarget(s, file, f.force)
	}
	bucket, name, err := f.s3.object(file)
	return &s3Object{bucket, name}, err
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
	switch {
	case a.Header.Encryption != "":
	case a.Header.Keys == container.KeysSealed:
		fmt.Fprintln(s.err, "Not encrypted: whoever has the file reads what is in it. The private keys in it open with the recovery key only.")
	default:
		fmt.Fprintln(s.err, "Not encrypted, so without the cluster's private keys: after a restore agents must be enrolled again.")
	}
	return nil
}

func printHeader(w io.Writer, h *container.Header) {
	how := "not encrypted"
	if h.Encryption != "" {
		how = "encrypted (" + printable(h.Encryption) + ")"
	}
	switch h.Keys {
	case container.KeysInside:
		how += ", with the cluster's private keys"
	case container.KeysSealed:
		how += ", with the cluster's private keys sealed to its recovery key"
	default:
		how += ", without the cluster's private keys"
	}
	fmt.Fprintf(w, "cluster    %s, by node %s, triward %s\n", printable(h.Cluster), printable(h.Node), printable(h.Program))
	fmt.Fprintf(w, "made       %s\n", time.UnixMilli(h.Created).Format(time.RFC3339))
	fmt.Fprintf(w, "as of      entry %d, log time %s\n", h.Index, time.UnixMilli(h.LogTime).Format(time.RFC3339))
	fmt.Fprintf(w, "format     %d\n", h.Format)
	fmt.Fprintf(w, "state      %s before compression\n", bytesText(h.ImageBytes))
	fmt.Fprintf(w, "digest     %s\n", printable(h.Digest))
	fmt.Fprintf(w, "protection %s\n", how)
	if h.Damaged {
		fmt.Fprintf(w, "damaged    the node knew that its state was not whole (--damaged)\n")
	}
}

func newSnapshotInspect(s streams) *cobra.Command {
	var form outputForm
	var s3 s3Flags
	c := &cobra.Command{
		Use:   "inspect FILE|REPOSITORY|-|s3://bucket/prefix/name",
		Short: "Show what a backup is of, or what a repository holds, without a key",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, _, ok := inRepository(args[0]); ok {
				return inspectRepository(c.Context(), s, &s3, &form, args[0])
			}
			in, _, err := openBackup(c.Context(), s, &s3, args[0])
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
	s3.flags(c)
	return c
}

// saveTarget is a file, or standard output, where nothing can be taken back.
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

// put makes what is written durable under the file's name.
func (t *saveTarget) put(_ context.Context, _ int64, write func(io.Writer) error) error {
	if err := write(t.Writer); err != nil || t.file == nil {
		return err
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
	recovery   bool
	plain      bool // with --to and in schedules
	passphrase passphraseFlags
}

func (e *encryptFlags) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&e.recipients, "recipient", nil, "encrypt for this public key (age1...); may be given again")
	c.Flags().StringArrayVar(&e.files, "recipients-file", nil, "encrypt for the public keys in this file, one a line")
	c.Flags().BoolVar(&e.recovery, "recovery", false, "encrypt for the cluster's recovery key")
	c.Flags().BoolVar(&e.plain, "plain", false, "do not encrypt; must be said when the node stores the backup")
	e.passphrase.flags(c, "encrypt with")
}

func (e *encryptFlags) request(s streams) (api.SnapshotRequest, error) {
	req := api.SnapshotRequest{Recipients: e.recipients, Recovery: e.recovery}
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

// protection is what the cluster is told: to encrypt for nobody must be said.
func (e *encryptFlags) protection(s streams) (schedule.Protection, error) {
	if e.passphrase.ask || e.passphrase.file != "" {
		return schedule.Protection{}, errors.New("a passphrase cannot be kept by the cluster; use --recipient or --recovery")
	}
	req, err := e.request(s)
	if err != nil {
		return schedule.Protection{}, err
	}
	p := schedule.Protection{Recipients: req.Recipients, Recovery: req.Recovery, Plain: e.plain}
	if !p.Plain && !p.Recovery && len(p.Recipients) == 0 {
		return p, errors.New("give --recipient or --recovery, or --plain for a backup that is not encrypted")
	}
	return p, nil
}
