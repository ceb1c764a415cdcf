package promapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/klauspost/compress/snappy"
)

// maxReadRequest bounds a remote read request as it is after decompression.
const maxReadRequest = 4 << 20

// boundRead reads the body of a remote read and looks at the length it claims, for which the library would allocate
// at once.
func boundRead(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	n, err := snappy.DecodedLen(body)
	if err != nil {
		return fmt.Errorf("snappy body: %w", err)
	}
	if n > maxReadRequest {
		return fmt.Errorf("the body is %d bytes decompressed; at most %d are read", n, maxReadRequest)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}
