package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// Prefixes tell an operator (and a secret scanner) what a string is.
const (
	prefixAPIToken  = "twt_"
	prefixAgentJoin = "twa_"
	prefixNodeJoin  = "twn_"
	prefixInvite    = "tws_"
)

// secretBytes is the strength of every secret made here: 256 bits.
const secretBytes = 32

// maxSecretLen bounds what is hashed for an unknown sender.
const maxSecretLen = 256

// newSecret returns a fresh secret with the prefix, in characters safe for headers and URLs.
func newSecret(prefix string) string {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails since Go 1.24: the runtime stops the process instead
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// hashSecret returns the form in which a secret is stored. A plain hash is enough for 256 random bits.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// equalHash compares in constant time.
func equalHash(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// Pin returns what a join token says of the certificate authority behind it; "" when it says nothing.
func Pin(token string) string {
	_, pin, _ := strings.Cut(token, ".")
	return pin
}
