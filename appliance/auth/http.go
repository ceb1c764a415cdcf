package auth

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Names of the session's cookie. The prefix makes browsers insist on TLS, the path / and no domain.
const (
	CookieSecure = "__Host-triward"
	CookiePlain  = "triward" // only where a developer serves plain HTTP on loopback
)

// cookieName is the cookie's name for how the request came.
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return CookieSecure
	}
	return CookiePlain
}

// SetCookie hands the secret of a session to the browser. It lives as long as the browser: the server decides
// about expiry.
func SetCookie(w http.ResponseWriter, r *http.Request, secret string) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Value: secret, Path: "/", Secure: r.TLS != nil,
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// ClearCookie takes the session's cookie from the browser.
func ClearCookie(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Path: "/", Secure: r.TLS != nil, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: -1,
	})
}

// Authenticate returns who makes the request: the holder of the API token when one is shown, otherwise that of
// the session's cookie. It returns ErrUnauthenticated for neither; a bad token is never made good by a
// cookie. A plain cookie counts only on loopback. The token is a bearer token, or the password of any user name for
// programs that know nothing but names and passwords; users' own passwords open sessions only. A browser shows a name and
// password again to whatever page asks, so of one they count for nothing.
func (s *Service) Authenticate(r *http.Request) (Principal, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		if _, password, ok := r.BasicAuth(); ok {
			if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
				return Principal{}, ErrUnauthenticated
			}
			return s.Token(password)
		}
		scheme, secret, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return Principal{}, ErrUnauthenticated
		}
		return s.Token(strings.TrimSpace(secret))
	}
	if r.TLS == nil && !RemoteAddr(r).IsLoopback() {
		return Principal{}, ErrUnauthenticated
	}
	c, err := r.Cookie(cookieName(r))
	if err != nil {
		return Principal{}, ErrUnauthenticated
	}
	return s.Session(c.Value)
}

// RemoteAddr is the address that the connection came from; the zero Addr when it cannot be read.
func RemoteAddr(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}
