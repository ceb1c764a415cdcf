package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/backup/schedule"
	place "github.com/triward/triward/appliance/backup/target"
)

// s3Flags say how an S3 service is reached. The keys come from the environment or a file: others can read a command
// line.
type s3Flags struct {
	endpoint, region, ca string
}

func (f *s3Flags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.endpoint, "s3-endpoint", os.Getenv("AWS_ENDPOINT_URL"), "address of the S3 service, https://host:port (AWS_ENDPOINT_URL); its keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	c.Flags().StringVar(&f.region, "s3-region", os.Getenv("AWS_REGION"), "region of the S3 service (AWS_REGION)")
	c.Flags().StringVar(&f.ca, "s3-ca", "", "PEM file of the CA that signed the S3 service's certificate (AWS_CA_BUNDLE, when this program itself asks the service)")
}

func isS3(name string) bool { return strings.HasPrefix(name, "s3://") }

// config is how the service is reached that keeps what url names.
func (f *s3Flags) config(url string) (place.S3Config, error) {
	cfg := place.S3Config{
		URL: url, Endpoint: f.endpoint, Region: f.region,
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
	}
	if cfg.Endpoint == "" {
		return cfg, errors.New("--s3-endpoint: name the S3 service, https://host:port")
	}
	if cfg.AccessKey == "" || cfg.SecretKey == "" {
		return cfg, errors.New("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to the keys of the S3 service")
	}
	return cfg, f.trust(&cfg, f.ca)
}

// trust reads the CA of the service.
func (f *s3Flags) trust(cfg *place.S3Config, file string) error {
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read CA of the S3 service: %w", err)
	}
	cfg.CA = pem
	return nil
}

// object is the place and the name of one backup in S3, s3://bucket/prefix/name.
func (f *s3Flags) object(url string) (*place.S3, string, error) {
	at := strings.LastIndex(url, "/")
	if at < len("s3://x") || at == len(url)-1 {
		return nil, "", fmt.Errorf("%s: want s3://bucket/prefix/name", url)
	}
	cfg, err := f.config(url[:at])
	if err == nil && f.ca == "" {
		err = f.trust(&cfg, os.Getenv("AWS_CA_BUNDLE"))
	}
	if err != nil {
		return nil, "", err
	}
	bucket, err := place.NewS3(cfg)
	return bucket, url[at+1:], err
}

// s3Object is a backup to be stored in S3.
type s3Object struct {
	bucket *place.S3
	name   string
}

func (o *s3Object) put(ctx context.Context, expected int64, write func(io.Writer) error) error {
	_, err := o.bucket.Put(ctx, o.name, expected, write)
	return err
}

func (o *s3Object) abandon() {}

// where is the place as the cluster is told it: "folder" or s3://bucket/prefix with the keys.
func (f *s3Flags) where(to string) (schedule.Where, error) {
	if to == schedule.KindFolder {
		return schedule.Where{Kind: schedule.KindFolder}, nil
	}
	if !isS3(to) {
		return schedule.Where{}, fmt.Errorf("%q: want folder, for the folder in backup.dir of the node, or s3://bucket/prefix", to)
	}
	cfg, err := f.config(to)
	return schedule.Where{
		Kind: schedule.KindS3, URL: cfg.URL, Endpoint: cfg.Endpoint, Region: cfg.Region, AccessKey: cfg.AccessKey,
		SecretKey: cfg.SecretKey, CA: string(cfg.CA),
	}, err
}

// openBackup opens a backup for reading: a file, - for standard input, or s3://bucket/prefix/name. size is 0 when it is
// not known.
func openBackup(ctx context.Context, s streams, f *s3Flags, name string) (in io.ReadCloser, size int64, err error) {
	switch {
	case name == "-":
		return io.NopCloser(s.in), 0, nil
	case isS3(name):
		bucket, object, err := f.object(name)
		if err != nil {
			return nil, 0, err
		}
		return bucket.Open(ctx, object)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("open backup: %w", err)
	}
	st, err := file.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("open backup: %s is a directory", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, st.Size(), nil
}
