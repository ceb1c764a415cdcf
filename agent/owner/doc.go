// Package owner lets a command that root runs act as the user whose directory it writes to, so that what it makes
// belongs to the service. It knows no configuration and imports nothing of Triward.
package owner
