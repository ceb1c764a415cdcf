package pipeline

import "strings"

// maxCard is how long a card number with separators may be: 19 digits in groups of at least two.
const maxCard = 24

// isCard reports whether a word is a card number: digits, in groups that all have the same separator or in one.
func isCard(s string) bool {
	var digits [19]byte
	n, group := 0, 0
	groups := false
	for i := range len(s) {
		switch b := s[i]; {
		case b >= '0' && b <= '9':
			if n == len(digits) {
				return false
			}
			digits[n] = b - '0'
			n++
			group++
		case b == '-' && group >= 3 && (groups || group == 4):
			groups, group = true, 0
		default:
			return false
		}
	}
	return n >= 13 && (!groups || group >= 1) && isCardNumber(digits[:n])
}

// cardInGroups returns the length of the card number in groups with blanks that a text begins with, 0 when it begins
// with none.
func cardInGroups(s string) int {
	var digits [19]byte
	n, group, best := 0, 0, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] >= '0' && s[i] <= '9' {
			if n == len(digits) {
				break
			}
			digits[n] = s[i] - '0'
			n++
			group++
			continue
		}
		if group < 2 || best == 0 && n == group && group != 4 {
			break
		}
		if n >= 13 && isCardNumber(digits[:n]) {
			best = i
		}
		if i == len(s) || s[i] != ' ' {
			break
		}
		group = 0
	}
	return best
}

// isCardNumber reports whether the digits are of an issuer of cards and end with the right check digit.
func isCardNumber(d []byte) bool { return issuer(d) && luhn(d) }

// issuer reports whether a known issuer has card numbers that begin so and are so long.
func issuer(d []byte) bool {
	n := len(d)
	two := int(d[0])*10 + int(d[1])
	four := two*100 + int(d[2])*10 + int(d[3])
	switch {
	case d[0] == 4: // Visa
		return n == 13 || n == 16 || n == 19
	case two >= 51 && two <= 55, four >= 2221 && four <= 2720: // Mastercard
		return n == 16
	case two == 34, two == 37: // American Express
		return n == 15
	case four >= 3528 && four <= 3589: // JCB
		return n >= 16
	case four/10 >= 300 && four/10 <= 305, four == 3095, two == 36, two == 38, two == 39: // Diners Club
		return n == 14 || n >= 16
	case four == 6011, two == 65, four/10 >= 644 && four/10 <= 649: // Discover
		return n >= 16
	case two == 62, two == 81: // UnionPay
		return n >= 16
	case four == 5018, four == 5020, four == 5038, four == 5893, four == 6304, four == 6759, four >= 6761 && four <= 6763: // Maestro
		return n >= 13
	case four >= 2200 && four <= 2204: // Mir
		return n >= 16
	}
	return false
}

// luhn reports whether the last digit is the check digit of the others.
func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i])
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

// tokenForms are tokens that tell by their beginning what they are.
var tokenForms = [...]struct {
	prefix string
	least  int // length of the whole
}{
	{"AKIA", 20},
	{"ASIA", 20},
	{"ABIA", 20}, // Amazon
	{"AIza", 39},
	{"ya29.", 30}, // Google
	{"LTAI", 16},
	{"AKID", 20}, // Aliyun, Tencent
	{"SG.", 50},  // SendGrid
	{"dop_v1_", 40},
	{"dckr_pat_", 20},
	{"dapi", 32},
	{"doo_", 40}, // DigitalOcean, Docker, Databricks
	{"ghp_", 36},
	{"gho_", 36},
	{"ghu_", 36},
	{"ghs_", 36},
	{"ghr_", 36},
	{"github_pat_", 30},
	{"glpat-", 20},
	{"gldt-", 20},
	{"glrt-", 20},
	{"glsa_", 30},
	{"glc_", 30}, // Grafana
	{"hvs.", 24},
	{"hvb.", 24}, // Vault
	{"npm_", 36},
	{"pypi-", 40},
	{"rubygems_", 40},
	{"sk_live_", 20},
	{"sk_test_", 20},
	{"rk_live_", 20},
	{"rk_test_", 20},
	{"whsec_", 30}, // Stripe
	{"sk-", 32},
	{"hf_", 30},
	{"twa_", 40},
	{"twn_", 40},
	{"twt_", 40}, // our own
	{"xoxb-", 24},
	{"xoxp-", 24},
	{"xoxa-", 24},
	{"xoxr-", 24},
	{"xoxs-", 24},
	{"xapp-", 24}, // Slack
}

// beginsToken are the first bytes of the forms, by their second.
var beginsToken = func() (set [256][256 / 64]uint64) {
	for _, f := range tokenForms {
		set[f.prefix[0]][f.prefix[1]/64] |= 1 << (f.prefix[1] % 64)
	}
	set['e']['y'/64] |= 1 << ('y' % 64)
	return set
}()

// isToken reports whether a word of at least minWord bytes has the form of a token.
func isToken(s string) bool {
	if beginsToken[s[0]][s[1]/64]&(1<<(s[1]%64)) == 0 {
		return false
	}
	if s[0] == 'e' {
		return isJWT(s)
	}
	for i := range tokenForms {
		f := &tokenForms[i]
		if len(s) >= f.least && s[0] == f.prefix[0] && s[:len(f.prefix)] == f.prefix {
			return mixed(s[len(f.prefix):])
		}
	}
	return false
}

// isJWT reports whether a word is a signed or encrypted JSON web token: "{" in base64 begins its first part.
func isJWT(s string) bool {
	if len(s) < 40 || s[:3] != "eyJ" {
		return false
	}
	dots := 0
	for i := range len(s) {
		if s[i] == '.' {
			dots++
		}
	}
	return dots == 2 || dots == 4
}

// mixed reports whether the rest of a token is one of chance: it has a digit. Names of things that begin alike, such as
// npm_package_version_of_something, are words.
func mixed(s string) bool { return strings.ContainsAny(s, "0123456789") }

// inToken reports whether a byte may stand in a token: base64, hexadecimal and the like.
func inToken(b byte) bool { return inWord[b] || b == '+' || b == '/' || b == '~' || b == '=' }
