package pki

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"strings"
)

// incarnationUnit begins the organizational unit of a node's certificate that names the cluster's incarnation.
const incarnationUnit = "incarnation "

// NewIncarnation draws the name of an incarnation. A cluster that was restored from a backup is another incarnation
// of the one that was backed up: it has the same id and may have the same CA and the same names of nodes, so nothing
// else keeps the nodes of the two from taking each other for members.
func NewIncarnation() string { return strings.ToLower(rand.Text()[:16]) }

// InIncarnation returns the CA as it signs for the nodes of an incarnation; "" is a cluster's first.
func (ca *CA) InIncarnation(name string) *CA {
	next := *ca
	next.incarnation = name
	return &next
}

// Incarnation returns the incarnation that a node's certificate names.
func Incarnation(cert *x509.Certificate) string {
	for _, unit := range cert.Subject.OrganizationalUnit {
		if name, ok := strings.CutPrefix(unit, incarnationUnit); ok {
			return name
		}
	}
	return ""
}

// Incarnation of the cluster that the node belongs to; "" for its first.
func (i *Identity) Incarnation() string { return Incarnation(i.cert.Load().Leaf) }

// CheckPeer refuses the certificate of a node of another incarnation.
func (i *Identity) CheckPeer(cert *x509.Certificate) error {
	if own, other := i.Incarnation(), Incarnation(cert); own != other {
		return fmt.Errorf("it belongs to another incarnation of the cluster (%q, this is %q): one of the two was restored from a backup", other, own)
	}
	return nil
}
