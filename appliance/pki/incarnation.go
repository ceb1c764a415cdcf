package pki

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"strconv"
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

// memberUnit begins the organizational unit of a node's certificate that says which membership it is of.
const memberUnit = "member "

// ForMember returns the CA as it signs for one membership of a node: a number that grows each time a node of a name joins.
// So the certificate of one that was removed, or whose name another machine has now, is told from that of today. 0 is
// the membership of a node that was there from the beginning.
func (ca *CA) ForMember(number uint64) *CA {
	next := *ca
	next.member = number
	return &next
}

// MemberNumber returns the number of the membership that a node's certificate is of; 0 when it names none.
func MemberNumber(cert *x509.Certificate) uint64 {
	for _, unit := range cert.Subject.OrganizationalUnit {
		if text, ok := strings.CutPrefix(unit, memberUnit); ok {
			n, err := strconv.ParseUint(text, 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// MemberNumber is the number of the membership that the node's certificate is of.
func (i *Identity) MemberNumber() uint64 { return MemberNumber(i.cert.Load().Leaf) }

// Incarnation of the cluster that the node belongs to; "" for its first.
func (i *Identity) Incarnation() string { return Incarnation(i.cert.Load().Leaf) }

// CheckPeer refuses the certificate of a node of another incarnation.
func (i *Identity) CheckPeer(cert *x509.Certificate) error {
	if own, other := i.Incarnation(), Incarnation(cert); own != other {
		return fmt.Errorf("it belongs to another incarnation of the cluster (%q, this is %q): one of the two was restored from a backup or recovered from the loss of its majority", other, own)
	}
	return nil
}
