package target

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Config says how an S3 service is reached.
type S3Config struct {
	URL       string // s3://bucket/prefix
	Endpoint  string // https://host[:port], of the service
	Region    string // "" for us-east-1, which services of one's own take for any
	AccessKey string
	SecretKey string
	CA        []byte // PEM of the CA that signed the service's certificate; the system's when empty
}

// Bounds of S3.
const (
	minPart      = 16 << 20
	maxParts     = 9_000 // of 10,000 that services allow
	cleanTimeout = 30 * time.Second
)

// S3 keeps backups as objects.
type S3 struct {
	cfg    S3Config
	loc    Location
	client *minio.Client
	core   minio.Core
}

// CheckS3 says what is wrong with a description of an S3 target, without asking the service.
func CheckS3(cfg *S3Config) error {
	if _, err := ParseLocation(cfg.URL); err != nil {
		return err
	}
	u, err := url.Parse(cfg.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil:
		return fmt.Errorf("%w: endpoint %.200q: want https://host:port", ErrInvalid, cfg.Endpoint)
	case cfg.AccessKey == "" || len(cfg.AccessKey) > 200 || len(cfg.SecretKey) > 500:
		return fmt.Errorf("%w: access_key and secret_key: want those that the service gave out", ErrInvalid)
	case len(cfg.Region) > 64:
		return fmt.Errorf("%w: region %.80q", ErrInvalid, cfg.Region)
	case len(cfg.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(cfg.CA):
		return fmt.Errorf("%w: ca_pem holds no certificate", ErrInvalid)
	}
	return nil
}

// Secure reports whether the service is reached by TLS.
func (cfg *S3Config) Secure() bool {
	u, err := url.Parse(cfg.Endpoint)
	return err == nil && u.Scheme == "https"
}

// NewS3 makes a client for the service; nothing is asked of it yet.
func NewS3(cfg S3Config) (*S3, error) {
	if err := CheckS3(&cfg); err != nil {
		return nil, err
	}
	if cfg.SecretKey == "" {
		return nil, fmt.Errorf("%w: secret_key is missing", ErrInvalid)
	}
	loc, err := ParseLocation(cfg.URL)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cfg.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(cfg.CA)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), Secure: u.Scheme == "https", Region: cfg.Region,
		// By path: a service of one's own has no name for each bucket.
		BucketLookup: minio.BucketLookupPath, MaxRetries: 5,
		Transport: &http.Transport{
			TLSClientConfig: conf, DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 2 * time.Minute, IdleConnTimeout: time.Minute,
			MaxIdleConns: 4, DisableCompression: true, Proxy: http.ProxyFromEnvironment,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &S3{cfg: cfg, loc: loc, client: client, core: minio.Core{Client: client}}, nil
}

// String implements Target.
func (s *S3) String() string { return s.loc.String() }

// explain turns the service's answers into errors that name the remedy.
func (s *S3) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	e := minio.ToErrorResponse(err)
	switch e.Code {
	case minio.NoSuchKey, "NotFound":
		return fmt.Errorf("%s %s: %w", what, s.loc, ErrAbsent)
	case minio.NoSuchBucket:
		return fmt.Errorf("%s %s: the service has no bucket %q; make it first", what, s.loc, s.loc.Bucket)
	case minio.InvalidAccessKeyID, "SignatureDoesNotMatch":
		return fmt.Errorf("%s %s: the service does not take the access key or its secret", what, s.loc)
	case minio.AccessDenied:
		// An answer without a body does not tell a wrong key from one that may not.
		return fmt.Errorf("%s %s: the service does not take the access key with its secret, or does not let it put, get and delete objects there", what, s.loc)
	case "RequestTimeTooSkewed":
		return fmt.Errorf("%s %s: the clocks of this machine and the service differ too much", what, s.loc)
	}
	return fmt.Errorf("%s %s at %s: %w", what, s.loc, s.cfg.Endpoint, err)
}

// Put implements Target. It sends parts as they come, one in memory.
func (s *S3) Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) (int64, error) {
	if err := CheckName(name); err != nil {
		return 0, err
	}
	key := s.loc.Key(name)
	if _, err := s.client.StatObject(ctx, s.loc.Bucket, key, minio.StatObjectOptions{}); err == nil {
		return 0, fmt.Errorf("%s: %w", s.loc.String()+"/"+name, ErrExists)
	} else if e := s.explain("look at", err); !errors.Is(e, ErrAbsent) {
		return 0, e
	}
	m := &multipart{s: s, ctx: ctx, key: key, part: make([]byte, 0, partSize(expected))}
	err := write(m)
	if err == nil {
		err = m.finish()
	}
	if err != nil {
		return 0, errors.Join(err, m.abort())
	}
	st, err := s.client.StatObject(ctx, s.loc.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return 0, s.explain("look at", err)
	}
	if st.Size != m.size {
		return 0, fmt.Errorf("store in %s: the service says that %s has %d bytes, %d were sent", s.loc, name, st.Size, m.size)
	}
	return m.size, nil
}

// partSize makes parts large enough that there are never too many, if it becomes no longer than twice what is expected.
func partSize(expected int64) int64 { return max(minPart, 2*expected/maxParts) }

// multipart is an upload under way. The service checks the SHA-256 of each part.
type multipart struct {
	s     *S3
	ctx   context.Context
	key   string
	id    string // "" until the first part
	part  []byte
	parts []minio.CompletePart
	size  int64
	err   error
}

// Write implements io.Writer.
func (m *multipart) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 && m.err == nil {
		k := min(len(p), cap(m.part)-len(m.part))
		m.part = append(m.part, p[:k]...)
		p, n = p[k:], n+k
		if len(m.part) == cap(m.part) {
			m.err = m.send()
		}
	}
	return n, m.err
}

func (m *multipart) send() error {
	if m.id == "" {
		id, err := m.s.core.NewMultipartUpload(m.ctx, m.s.loc.Bucket, m.key, minio.PutObjectOptions{ContentType: "application/octet-stream"})
		if err != nil {
			return m.s.explain("store in", err)
		}
		m.id = id
	}
	number := len(m.parts) + 1
	sum := sha256Hex(m.part)
	p, err := m.s.core.PutObjectPart(m.ctx, m.s.loc.Bucket, m.key, m.id, number, bytes.NewReader(m.part), int64(len(m.part)),
		minio.PutObjectPartOptions{Sha256Hex: sum})
	if err != nil {
		return m.s.explain("store in", err)
	}
	m.parts = append(m.parts, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
	m.size += int64(len(m.part))
	m.part = m.part[:0]
	return nil
}

// finish makes the object of its parts. What fits into one part goes in one request.
func (m *multipart) finish() error {
	if m.err != nil {
		return m.err
	}
	if m.id == "" {
		_, err := m.s.core.PutObject(m.ctx, m.s.loc.Bucket, m.key, bytes.NewReader(m.part), int64(len(m.part)), "", sha256Hex(m.part),
			minio.PutObjectOptions{ContentType: "application/octet-stream"})
		m.size = int64(len(m.part))
		m.err = m.s.explain("store in", err)
		return m.err
	}
	if len(m.part) > 0 {
		if m.err = m.send(); m.err != nil {
			return m.err
		}
	}
	if _, m.err = m.s.core.CompleteMultipartUpload(m.ctx, m.s.loc.Bucket, m.key, m.id, m.parts, minio.PutObjectOptions{}); m.err != nil {
		return m.s.explain("store in", m.err)
	}
	return nil
}

// abort takes back what was sent, also when the caller's time is over.
func (m *multipart) abort() error {
	if m.id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), cleanTimeout)
	defer cancel()
	if err := m.s.core.AbortMultipartUpload(ctx, m.s.loc.Bucket, m.key, m.id); err != nil {
		return m.s.explain("take back the unfinished upload to", err)
	}
	return nil
}

// Open implements Target.
func (s *S3) Open(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	obj, err := s.client.GetObject(ctx, s.loc.Bucket, s.loc.Key(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, 0, s.explain("read from", err)
	}
	st, err := obj.Stat()
	if err != nil {
		return nil, 0, errors.Join(s.explain("read from", err), obj.Close())
	}
	return obj, st.Size, nil
}

// OpenRange implements Target.
func (s *S3) OpenRange(ctx context.Context, name string, offset, n int64) (io.ReadCloser, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	var opts minio.GetObjectOptions
	last := offset + n - 1
	if n < 0 {
		last = 0 // to the end
	}
	if offset > 0 || n >= 0 {
		if err := opts.SetRange(offset, last); err != nil {
			return nil, fmt.Errorf("read from %s: %w", s.loc, err)
		}
	}
	body, _, _, err := s.core.GetObject(ctx, s.loc.Bucket, s.loc.Key(name), opts)
	if err != nil {
		return nil, s.explain("read from", err)
	}
	return body, nil
}

// List implements Target.
func (s *S3) List(ctx context.Context, prefix string, fn func(Item) error) error {
	return s.each(ctx, prefix, func(name string, size int64) error {
		if CheckName(name) != nil {
			return nil
		}
		return fn(Item{name, size})
	})
}

// Places implements Target.
func (s *S3) Places(ctx context.Context, fn func(name string) error) error {
	return s.each(ctx, "", func(name string, _ int64) error {
		if place, ok := strings.CutSuffix(name, "/"); ok && place != "" {
			return fn(place)
		}
		return nil
	})
}

// each calls fn with what lies directly here and begins with the prefix: objects, and places, whose names end with "/".
func (s *S3) each(ctx context.Context, prefix string, fn func(name string, size int64) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when fn wants no more
	defer cancel()
	below := s.loc.Key("")
	objects := s.client.ListObjects(ctx, s.loc.Bucket, minio.ListObjectsOptions{Prefix: below + prefix})
	var failed error
	for o := range objects { // to its end, which comes soon after cancel
		if failed != nil {
			continue
		}
		if o.Err != nil {
			failed = s.explain("list", o.Err)
			cancel()
			continue
		}
		if failed = fn(strings.TrimPrefix(o.Key, below), o.Size); failed != nil {
			cancel()
		}
	}
	return failed
}

// Below implements Target.
func (s *S3) Below(name string) Target {
	out := *s
	out.loc.Prefix = s.loc.Key(name)
	return &out
}

// Remove implements Target.
func (s *S3) Remove(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	key := s.loc.Key(name)
	// Removing what is not there is no error of the service.
	if _, err := s.client.StatObject(ctx, s.loc.Bucket, key, minio.StatObjectOptions{}); err != nil {
		return s.explain("look at", err)
	}
	return s.explain("remove from", s.client.RemoveObject(ctx, s.loc.Bucket, key, minio.RemoveObjectOptions{}))
}

// Check implements Target.
func (s *S3) Check(ctx context.Context) error { return check(ctx, s) }

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
