package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Buckets of the metadata that this package owns.
const (
	BucketUsers     = "users"
	BucketSessions  = "sessions"
	BucketTickets   = "tickets"
	BucketAPITokens = "apitokens"
	BucketTokens    = "tokens"
	BucketAgents    = "agents"
	BucketInvites   = "invites"
)

// Value is a value of the metadata and the log index that wrote it.
type Value struct {
	Data     []byte
	ModIndex uint64
}

// Compare is a condition of a transaction: the key was last written at ModIndex; 0 means it must be absent.
type Compare struct {
	Bucket, Key string
	ModIndex    uint64
}

// Op is one change of a transaction. Expires is log time in milliseconds since 1970, 0 for never.
type Op struct {
	Delete      bool
	Bucket, Key string
	Value       []byte
	Expires     int64
}

// AuditRecord says who did what. Texts are UTF-8 of at most 512 bytes, Action must be given; Detail is a JSON value of
// at most 8 KiB, or nothing.
type AuditRecord struct {
	Actor   string // user, token, node or agent
	Address string // the actor's
	Action  string // such as user.create
	Target  string // what it was done to
	Detail  []byte
}

// Txn is applied whole, or not at all when one of its conditions does not hold. Its audit records, at most 16, are
// added to the audit chain with it; it may have nothing else.
type Txn struct {
	Compares []Compare
	Ops      []Op
	Audit    []AuditRecord
}

// Meta is the replicated metadata as this package needs it. All methods may be called at any time from any
// goroutine; returned bytes must not be changed.
type Meta interface {
	// Get returns what this node has applied; a key that expired by log time is absent.
	Get(bucket, key string) (Value, bool)
	// Scan calls fn for each key with the prefix in ascending order until fn returns false.
	Scan(bucket, prefix string, fn func(key string, v Value) bool)
	// LogTime is the newest log time applied here, in milliseconds since 1970.
	LogTime() int64
	// Commit returns once the transaction is committed on a majority and applied on this node, so that a Get
	// that follows sees it. It returns an error that is ErrConflict when a condition did not hold. Any other
	// error may leave the outcome unknown.
	Commit(ctx context.Context, txn Txn) (index uint64, err error)
}

// Sentinels of this package.
var (
	// ErrConflict says that a condition of a transaction did not hold.
	ErrConflict = errors.New("the record was changed by somebody else")
	// ErrUnauthenticated says that the request carries no valid identity.
	ErrUnauthenticated = errors.New("no valid session or token")
	// ErrCredentials says that user and password do not belong together; it never says which is wrong.
	ErrCredentials = errors.New("wrong user name or password")
	// ErrForbidden says that the identity is known and may not do this.
	ErrForbidden = errors.New("the role does not allow this")
	// ErrToken says that a join token is unknown, used up or expired.
	ErrToken = errors.New("the token is unknown, used up or expired")
	// ErrTooMany says that an attempt was refused without being looked at because of too many before it.
	ErrTooMany = errors.New("too many attempts")
	// ErrNotFound says that the named user or token does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("exists already")
	// ErrInvalid says that an argument breaks a rule; the text names it.
	ErrInvalid = errors.New("invalid")
	// ErrLastAdministrator says that nobody would be left who may administer.
	ErrLastAdministrator = errors.New("this is the last administrator who can log in")
	// ErrLimit says that a bound on the number of records is reached.
	ErrLimit = errors.New("limit reached")
)

// encode marshals a record of this package; these are structs of plain fields and cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("auth: encode %T: %v", v, err))
	}
	return b
}

// casRetries is how often a read-change-write is tried again when another node was faster.
const casRetries = 64
