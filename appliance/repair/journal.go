package repair

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	journalFile    = "damage.json"
	journalVersion = 1
	orderFile      = "REPAIR_FROM"
)

// journal is the file of what is known of a node's damage. The oldest that is repaired goes when it is full.
type journal struct {
	Version int      `json:"version"`
	Records []Record `json:"records"`
	CRC     uint32   `json:"crc32c"` // of the records as they are encoded
}

func sumOf(records []Record) (uint32, error) {
	body, err := json.Marshal(records)
	if err != nil {
		return 0, fmt.Errorf("encode damage: %w", err)
	}
	return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)), nil
}

func readJournal(dir string) (journal, error) {
	empty := journal{Version: journalVersion}
	body, err := os.ReadFile(filepath.Join(dir, journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("read damage: %w", err)
	}
	var j journal
	if err := json.Unmarshal(body, &j); err != nil {
		return empty, fmt.Errorf("file %s: %w", journalFile, err)
	}
	sum, err := sumOf(j.Records)
	if err != nil {
		return empty, err
	}
	if j.Version != journalVersion || j.CRC != sum {
		return empty, fmt.Errorf("file %s of version %d is not what was written", journalFile, j.Version)
	}
	j.Records = j.Records[:min(len(j.Records), maxRecords)]
	return j, nil
}

// Journal reads what is known of the damage of the node whose data directory is dir, running or not.
func Journal(dir string) ([]Record, error) {
	j, err := readJournal(dir)
	return j.Records, err
}

func (j *journal) write(dir string) (err error) {
	j.Version = journalVersion
	if j.CRC, err = sumOf(j.Records); err != nil {
		return err
	}
	body, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encode damage: %w", err)
	}
	return writeFile(dir, journalFile, append(body, '\n'))
}

// makeRoom forgets the oldest record that is repaired; false when there is none.
func (j *journal) makeRoom() bool {
	i := slices.IndexFunc(j.Records, func(r Record) bool { return !r.Open() })
	if i < 0 {
		return false
	}
	j.Records = slices.Delete(j.Records, i, i+1)
	return true
}

// writeFile replaces a file of the data directory, durably.
func writeFile(dir, name string, body []byte) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

var nodeIDForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)

// WriteOrder has the node whose data directory is dir take its state from another one when it starts and is damaged,
// also when a majority is. It is for a node that cannot start.
func WriteOrder(dir, from string) error {
	if !nodeIDForm.MatchString(from) {
		return fmt.Errorf("%.80q is no node id", from)
	}
	return writeFile(dir, orderFile, []byte(from+"\n"))
}

// orderLasts is how long after it was given an order in the file holds for a start; that in the replicated state as well.
const orderLasts = 24 * time.Hour

func readOrder(dir string) (string, error) {
	body, err := os.ReadFile(filepath.Join(dir, orderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read order of repair: %w", err)
	}
	if info, err := os.Stat(filepath.Join(dir, orderFile)); err == nil && time.Since(info.ModTime()) > orderLasts {
		return "", removeOrder(dir) // it was meant for a damage of then
	}
	from := strings.TrimSpace(string(body))
	if !nodeIDForm.MatchString(from) {
		return "", fmt.Errorf("file %s names no node: %.80q (remove it, or give the order again)", filepath.Join(dir, orderFile), from)
	}
	return from, nil
}

func removeOrder(dir string) error {
	err := os.Remove(filepath.Join(dir, orderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
