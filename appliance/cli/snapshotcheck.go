package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/repository"
)

// passphraseFlags say where a passphrase comes from: never from the command line, where others can read it.
type passphraseFlags struct {
	ask  bool
	file string
}

func (p *passphraseFlags) flags(c *cobra.Command, verb string) {
	c.Flags().BoolVar(&p.ask, "passphrase", false, verb+" a passphrase that is asked for")
	c.Flags().StringVar(&p.file, "passphrase-file", "", verb+" the passphrase in this file (its first line)")
}

// read returns the passphrase, "" when none is wanted; twice asks for it again.
func (p *passphraseFlags) read(s streams, twice bool) (string, error) {
	if p.file != "" {
		body, err := os.ReadFile(p.file)
		if err != nil {
			return "", fmt.Errorf("read passphrase: %w", err)
		}
		line, _, _ := strings.Cut(string(body), "\n")
		if line = strings.TrimSuffix(line, "\r"); line == "" {
			return "", fmt.Errorf("read passphrase: the first line of %s is empty", p.file)
		}
		return line, nil
	}
	if !p.ask {
		return "", nil
	}
	first, err := askSecret(s, "Passphrase: ")
	if err != nil || !twice {
		return first, err
	}
	again, err := askSecret(s, "Again: ")
	if err == nil && again != first {
		err = errors.New("the two are not the same")
	}
	return first, err
}

func askSecret(s streams, prompt string) (string, error) {
	in, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", errors.New("there is no terminal to ask for the passphrase; use --passphrase-file")
	}
	fmt.Fprint(s.err, prompt)
	secret, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(s.err)
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	return string(secret), nil
}

// openFlags say what opens an encrypted backup.
type openFlags struct {
	s3         s3Flags
	identities []string
	passphrase passphraseFlags
}

func (o *openFlags) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&o.identities, "identity", nil, "file with the private key that opens the backup; may be given again")
	o.passphrase.flags(c, "open with")
	o.s3.flags(c)
}

func (o *openFlags) read(s streams) ([]age.Identity, error) {
	var files []io.Reader
	for _, name := range o.identities {
		body, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read private key: %w", err)
		}
		files = append(files, strings.NewReader(string(body)))
	}
	passphrase, err := o.passphrase.read(s, false)
	if err != nil {
		return nil, err
	}
	return backup.Identities(files, passphrase)
}

// checkedAnswer is what `snapshot verify -o json` prints.
type checkedAnswer struct {
	File     string             `json:"file"`
	Save     string             `json:"save,omitempty"` // of a repository
	Bytes    int64              `json:"bytes"`
	Header   container.Header   `json:"header"`
	Opened   bool               `json:"opened"` // the content was looked at, not the container alone
	Manifest *backup.Manifest   `json:"manifest,omitempty"`
	Deep     *backup.DeepReport `json:"deep,omitempty"`
	// All is what was read of a repository beside the save, when none was named.
	All *repository.Checked `json:"all,omitempty"`
}

func newSnapshotVerify(s streams) *cobra.Command {
	var open openFlags
	var form outputForm
	var quick, files bool
	var stage string
	c := &cobra.Command{
		Use:   "verify FILE|REPOSITORY|-|s3://bucket/prefix/name",
		Short: "Check a backup by reading all of it, down to every sample and line",
		Long: `Checks that the file is, byte for byte, what was written; that every file in it has the SHA-256 of the manifest; and,
unless --quick, unpacks it beside (--stage), opens the stores and compares every sample and line with the digests that
the cluster had. A test restore proves no more about the data.

Of a repository it checks the newest save like that, or the one named behind it; when none is named it also reads all other
saves, all packs and the whole archived log.

Without the key of an encrypted backup only the first can be checked: the exit code is 3 then.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := open.read(s)
			if err != nil {
				return err
			}
			a := checkedAnswer{File: args[0]}
			verify := verifyFile
			if _, _, ok := inRepository(args[0]); ok {
				verify = verifyRepository
			}
			if err := verify(c.Context(), s, &a, &open.s3, ids, quick, stage); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if a.Manifest != nil && !files {
				a.Manifest.Files = nil
			}
			if err := printChecked(s, &form, &a); err != nil {
				return err
			}
			if !a.Opened {
				return errWarnings
			}
			return nil
		},
	}
	open.flags(c)
	form.flag(c)
	c.Flags().BoolVar(&quick, "quick", false, "check files by their digests and do not read what is in them")
	c.Flags().BoolVar(&files, "files", false, "with -o json: list all files of the image too")
	c.Flags().StringVar(&stage, "stage", "", "folder to unpack in (the system's for temporary files)")
	return c
}

func verifyFile(ctx context.Context, s streams, a *checkedAnswer, s3 *s3Flags, ids []age.Identity, quick bool, stage string) error {
	in, size, err := openBackup(ctx, s, s3, a.File)
	if err != nil {
		return err
	}
	defer in.Close()
	p := newProgress(s.err, "checking", size)
	defer p.end()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	head, err := peekHeader(p.reader(in))
	if err != nil {
		return err
	}
	if head.header.Encryption != "" && len(ids) == 0 {
		a.Header, a.Bytes, err = backup.CheckContainer(head)
		return orCancelled(ctx, err)
	}
	found, deep, err := backup.Verify(ctx, head, backup.VerifyOptions{
		Identities: ids, Quick: quick, Stage: stage, Phase: p.enter,
	})
	if err != nil {
		return orCancelled(ctx, err)
	}
	a.Header, a.Bytes, a.Manifest, a.Deep, a.Opened = found.Header, found.Size, found.Manifest, deep, true
	return nil
}

func orCancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// peeked is a backup whose header was looked at and which can be read from its beginning.
type peeked struct {
	io.Reader
	header container.Header
}

func peekHeader(r io.Reader) (*peeked, error) {
	var seen strings.Builder
	c, err := container.NewReader(io.TeeReader(r, &seen))
	if err != nil {
		return nil, err
	}
	return &peeked{io.MultiReader(strings.NewReader(seen.String()), r), c.Header}, nil
}

func printChecked(s streams, form *outputForm, a *checkedAnswer) error {
	if form.json() {
		return writeJSON(s.out, a)
	}
	if a.Save != "" {
		fmt.Fprintf(s.out, "save       %s of %s\n", a.Save, a.File)
	} else {
		fmt.Fprintf(s.out, "file       %s (%s)\n", a.File, bytesText(a.Bytes))
	}
	printHeader(s.out, &a.Header)
	if all := a.All; all != nil {
		how := "whole as it was stored"
		if all.Opened {
			how = "whole, and each entry of the log"
		}
		fmt.Fprintf(s.out, "repository %d saves, %d packs and %d segments of the log (%s): %s\n", all.Saves, all.Packs, all.Segments, bytesText(all.Bytes), how)
	}
	if !a.Opened {
		fmt.Fprintln(s.out, "checked    what was stored is whole; its content was not looked at")
		fmt.Fprintln(s.err, "Give --identity or --passphrase to check what is in it.")
		return nil
	}
	m := a.Manifest
	fmt.Fprintf(s.out, "holds      %d samples, %d lines, %d events; %d agents, %d series\n",
		m.Count("metrics"), m.Count("logs"), m.Count("events"), m.State.Agents, m.State.Series)
	for _, d := range m.Damage {
		fmt.Fprintf(s.out, "not whole  %s\n", printable(d))
	}
	if d := a.Deep; d != nil {
		fmt.Fprintf(s.out, "checked    every file by SHA-256, every sample and line: %d days agree with the cluster's digests\n", d.Days)
		if d.Partial > 0 {
			fmt.Fprintf(s.out, "           %d days of which retention had removed a part: no more than there should be\n", d.Partial)
		}
		return nil
	}
	fmt.Fprintln(s.out, "checked    every file by SHA-256")
	return nil
}

func newSnapshotRestore(s streams) *cobra.Command {
	var path string
	var open openFlags
	var form outputForm
	var verifyOnly, deep bool
	var point pointFlags
	c := &cobra.Command{
		Use:   "restore FILE|REPOSITORY|-|s3://bucket/prefix/name",
		Short: "Make this machine the first node of a cluster that goes on from a backup",
		Long: `Reads and checks the whole backup, then makes it the state of this node, which must have no data yet. Other nodes join
afterwards with a token, as into any cluster. Users, API tokens, agents and rules are those of the backup; sessions and
join tokens end. Nothing counts before everything was checked: a wrong key, a cut or altered file or one of a newer
version leaves the machine as it was.

Of a repository, a folder or an address in S3 whose name ends with repo-..., it is the newest backup, or the one named
behind it. With --to-index, --to-time or --latest the log that was archived behind a backup is replayed: the state is
exactly what the cluster had at that entry. --only keeps one kind of data, or the metadata alone.

Nodes of the cluster that was backed up do not take the new one for one of theirs, nor the other way round, but agents
that reach both would send to either: stop what is left of the old cluster first.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := appliance.LoadConfig(path)
			if err != nil {
				return err
			}
			if err := cfg.Resolve(); err != nil {
				return err
			}
			ids, err := open.read(s)
			if err != nil {
				return err
			}
			opts := appliance.RestoreOptions{Identities: ids, VerifyOnly: verifyOnly, Deep: deep}
			src, done, p, err := point.source(c.Context(), s, &open.s3, args[0], &opts)
			if err != nil {
				return err
			}
			defer done()
			if err := owner.Become(cfg.DataDir, serviceUser); err != nil { // with what only root may read open
				return err
			}
			opts.Phase = p.enter
			began := time.Now()
			report, err := appliance.Restore(c.Context(), cfg, src, opts)
			p.end()
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w; what is restored belongs to the user that owns %s: let that user read the repository", err, cfg.DataDir)
			}
			if err != nil {
				return fmt.Errorf("restore %s: %w", args[0], orCancelled(c.Context(), err))
			}
			report.Manifest.Files = nil
			return printRestored(s, &form, &cfg, report, verifyOnly, time.Since(began))
		},
	}
	configFlag(c, &path)
	open.flags(c)
	form.flag(c)
	c.Flags().BoolVar(&verifyOnly, "verify-only", false, "check everything on this machine and leave nothing")
	c.Flags().Uint64Var(&point.index, "to-index", 0, "replay the archived log up to exactly this entry")
	c.Flags().StringVar(&point.time, "to-time", "", "replay the archived log up to the last entry whose log time is not after this one, 2026-11-26T21:00:00Z")
	c.Flags().BoolVar(&point.latest, "latest", false, "replay the archived log as far as it goes")
	c.Flags().StringVar(&point.only, "only", "", "keep only this: metrics, logs, events, or config (users, rules, agents, settings)")
	c.Flags().BoolVar(&deep, "deep", false, "also read every sample and line before it counts, as `snapshot verify` does")
	return c
}

func printRestored(s streams, form *outputForm, cfg *appliance.Config, r *appliance.RestoreReport, verifyOnly bool, took time.Duration) error {
	if form.json() {
		return writeJSON(s.out, map[string]any{
			"node": cfg.NodeID, "data_dir": cfg.DataDir, "restored": !verifyOnly, "manifest": r.Manifest, "new_ca": r.NewCA,
			"ca_sha256": r.Pin, "warnings": r.Warnings, "deep": r.Deep, "took_s": took.Seconds(),
			"index": r.Index, "log_time": r.LogTime, "digest": r.Digest, "replayed": r.Replayed, "only": r.Only,
		})
	}
	printHeader(s.out, &r.Header)
	if r.Replayed > 0 {
		fmt.Fprintf(s.out, "replayed   %d entries of the archived log\n", r.Replayed)
	}
	if r.Only != "" {
		fmt.Fprintf(s.out, "kept       %s only\n", r.Only)
	}
	if r.Replayed > 0 || r.Only != "" {
		fmt.Fprintf(s.out, "state      as of entry %d, log time %s\nits digest %s\n", r.Index, time.UnixMilli(r.LogTime).Format(time.RFC3339Nano), r.Digest)
	}
	if verifyOnly {
		fmt.Fprintln(s.out, "checked    it could be restored here; nothing was changed")
		return nil
	}
	fmt.Fprintf(s.out, "node       %s in %s (%s)\n", cfg.NodeID, cfg.DataDir, took.Round(time.Millisecond))
	for _, w := range r.Warnings {
		fmt.Fprintf(s.err, "warning: %s\n", w)
	}
	if r.NewCA {
		fmt.Fprintf(s.err, "%s: the cluster has a new CA (%s), every agent must be enrolled again, and passwords that were sealed (of receivers and backup targets) must be entered again.\n", whyNewCA(r), r.Pin)
	}
	if r.RecoveryKey != "" {
		fmt.Fprintf(s.out, "recovery   %s\n", r.RecoveryKey)
		fmt.Fprintln(s.err, "The backup gave no key ring: a new one was made, whose recovery key is shown this once. Secrets that the lost cluster\nhad sealed (of receivers and of backup targets) must be entered again.")
	}
	fmt.Fprintln(s.err, "Start the node with `triward server`. Further nodes join with a token of `triward cluster token create`.")
	return nil
}

func whyNewCA(r *appliance.RestoreReport) string {
	if r.Header.Keys == container.KeysSealed {
		return "The private keys in the backup open with the cluster's recovery key (--identity), which was not given"
	}
	return "The backup has no private keys"
}

func newSnapshotKeygen(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a key for backups: the private part goes into FILE, the public one is printed",
		Long: `Makes a key in the format of age. FILE opens every backup that is encrypted for the public key printed (--recipient):
keep it away from the cluster and from the backups. It is not kept anywhere else.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			id, err := age.GenerateX25519Identity()
			if err != nil {
				return fmt.Errorf("make key: %w", err)
			}
			f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("write key: %w", err)
			}
			_, err = fmt.Fprintf(f, "# public key: %s\n%s\n", id.Recipient(), id)
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return fmt.Errorf("write key %s: %w", args[0], err)
			}
			fmt.Fprintln(s.out, id.Recipient())
			return nil
		},
	}
}
