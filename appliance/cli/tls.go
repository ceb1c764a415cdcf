package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
)

func newTLS(s streams) *cobra.Command {
	c := &cobra.Command{Use: "tls", Short: "Make certificates and CAs anew", Args: cobra.NoArgs, RunE: needSubcommand}
	c.AddCommand(newTLSIssue(s), newTLSRotate(s))
	return c
}

// Bounds of what is read: of a file with a recovery key, of a recovery file.
const (
	maxRecoveryKey  = 4 << 10
	maxRecoveryFile = 1 << 20
)

func newTLSIssue(s streams) *cobra.Command {
	var path, keyFile string
	var opts appliance.IssueOptions
	var form outputForm
	c := &cobra.Command{
		Use:   "issue",
		Short: "Give this node a new certificate while no other node can be asked",
		Long: `Makes a new certificate for this node with the cluster's own CA, without any node running: after a power-off that was
longer than certificates are good for, when the node's names or addresses changed, or when files of tls.dir were lost. The
node must be stopped. A node that runs renews its certificate by itself.

The key of the CA is taken from tls.dir. When it is not there, from tls.dir/recovery.json, where it lies sealed: the key
ring in tls.dir opens that, or the recovery key that was printed when the cluster was founded. --from names the
recovery.json of another node of the cluster. The certificate carries the names that the configuration says, those of the
old certificate, and those of --host. Run by root, it acts as the user that owns data_dir.`,
		Example: `  systemctl stop triward
  triward tls issue
  triward tls issue --recovery-key-file - < recovery.key
  systemctl start triward`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := appliance.LoadConfig(path)
			if err != nil {
				return err
			}
			if err := cfg.Resolve(); err != nil {
				return err
			}
			if keyFile != "" {
				if opts.RecoveryKey, err = readRecoveryKey(keyFile, s.in); err != nil {
					return err
				}
			}
			if opts.From != "" { // before this becomes another user
				if opts.Recovery, err = readBounded(opts.From); err != nil {
					return err
				}
			}
			for _, h := range opts.Hosts {
				if h == "" || strings.ContainsAny(h, " /:") && !strings.Contains(h, "::") {
					return fmt.Errorf("--host %q: want a name or an address, without a port", h)
				}
			}
			if err := owner.Become(cfg.DataDir, serviceUser); err != nil {
				return err
			}
			opts.Now = time.Now()
			made, err := cfg.Reissue(opts)
			if err != nil {
				return fmt.Errorf("issue certificate: %w", err)
			}
			if form.json() {
				return writeJSON(s.out, made)
			}
			fmt.Fprintf(s.out, "node    %s\nnames   %s\nuntil   %s\nCA key  %s\n", made.Node, strings.Join(made.Hosts, ", "), made.Expires.UTC().Format(time.DateOnly), made.CAFrom)
			if made.Ring {
				fmt.Fprintln(s.out, "ring    put back from the recovery file")
			}
			fmt.Fprintf(s.err, "\nWhat comes next, here:\n\n  %s\n", startCommand(path))
			return nil
		},
	}
	configFlag(c, &path)
	f := c.Flags()
	f.StringVar(&keyFile, "recovery-key-file", "", "file with the recovery key, or - for standard input")
	f.StringVar(&opts.From, "from", "", "recovery.json of another node of the cluster; default: the one in tls.dir")
	f.StringArrayVar(&opts.Hosts, "host", nil, "a further name or address for the certificate; may be repeated")
	form.flag(c)
	return c
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxRecoveryFile+1))
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	return body, nil
}

// readRecoveryKey takes the first line that is a key; a person may have written others around it.
func readRecoveryKey(path string, in io.Reader) (string, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read recovery key: %w", err)
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(io.LimitReader(in, maxRecoveryKey))
	for lines.Scan() {
		for _, word := range strings.Fields(lines.Text()) {
			if strings.HasPrefix(word, "AGE-SECRET-KEY-1") {
				return word, nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read recovery key: %w", err)
	}
	return "", errors.New("--recovery-key-file: it holds no AGE-SECRET-KEY-1...")
}
