// Package auth decides who may do what: users and their passwords, browser sessions and their resume tickets,
// API tokens, tokens that let agents and nodes join, and the keys of enrolled agents.
//
// Everything it knows is replicated metadata reached through the interface Meta, so that a session opened on one
// node holds on every other and ends everywhere at once. Secrets are never stored: passwords as argon2id, all
// others (256 random bits each) as SHA-256. Expiry goes by log time (DESIGN D11), never by a node's clock.
//
// The package must not import raftstate, the stores, ui or api: it sees metadata through Meta only.
package auth

// Role is what a person or a token may do as a whole.
type Role string

// The roles. Viewer, operator and administrator include one another in that order. The auditor sees what a viewer sees
// and who has access and did what, and changes nothing. Ingest stands beside them and may only send data.
const (
	RoleViewer        Role = "viewer"
	RoleOperator      Role = "operator"
	RoleAdministrator Role = "administrator"
	RoleAuditor       Role = "auditor"
	RoleIngest        Role = "ingest"
)

// Roles lists the roles in the order in which they are shown.
var roles = [...]Role{RoleViewer, RoleOperator, RoleAdministrator, RoleAuditor, RoleIngest}

// Roles returns the roles in the order in which they are shown.
func Roles() []Role { return append([]Role(nil), roles[:]...) }

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool {
	for _, known := range roles {
		if r == known {
			return true
		}
	}
	return false
}

// Permission is what a route or a kind of subscription asks for. The zero value is no permission at all, so that a
// route without one is refused and found by a test.
type Permission uint8

// The permissions.
const (
	Undeclared Permission = iota
	Public                // no identity needed
	SignedIn              // any identity of a person or token, whatever its role
	Read                  // see data and state
	Operate               // change what does not touch access or membership
	Administer            // users, tokens, membership
	Ingest                // send data
	Audit                 // see users, sessions, tokens and the audit log
)

// String returns the name of the permission as the API description shows it.
func (p Permission) String() string {
	switch p {
	case Public:
		return "public"
	case SignedIn:
		return "signed-in"
	case Read:
		return "read"
	case Operate:
		return "operate"
	case Administer:
		return "administer"
	case Ingest:
		return "ingest"
	case Audit:
		return "audit"
	}
	return "undeclared"
}

// Permissions lists every permission that a route may declare.
func Permissions() []Permission {
	return []Permission{Public, SignedIn, Read, Operate, Administer, Ingest, Audit}
}

// Allows reports whether the role grants p. An undeclared permission is granted to nobody.
func (r Role) Allows(p Permission) bool {
	switch p {
	case Public:
		return true
	case SignedIn:
		return r.Valid()
	case Read:
		return r == RoleViewer || r == RoleOperator || r == RoleAdministrator || r == RoleAuditor
	case Operate:
		return r == RoleOperator || r == RoleAdministrator
	case Administer:
		return r == RoleAdministrator
	case Ingest:
		return r == RoleIngest || r == RoleAdministrator
	case Audit:
		return r == RoleAuditor || r == RoleAdministrator
	}
	return false
}

// within returns what is left of the role for somebody who has no more than most: the greatest role that both allow, ""
// when there is none.
func (r Role) within(most Role) Role {
	switch {
	case most == RoleAdministrator || r == most:
		return r
	case r == RoleAdministrator:
		return most
	case r == RoleIngest || most == RoleIngest:
		return ""
	case r.Valid() && most.Valid(): // of viewer, operator and auditor two: what they share is to see
		return RoleViewer
	}
	return ""
}
