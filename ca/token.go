package ca

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"math/big"
	"strings"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
)

const (
	tokenPrefix = "MNTKN"
	// tokenVersion 1: base 36 of a SHA-256 digest and of 128 random bits.
	tokenVersion = "1"
	digestLength = 50
	secretLength = id.Length

	tokenForm = "MNTKN-1-<50 characters>-<25 characters>"
	tokenTry  = "minictl swarm join-token worker, on a manager"
)

// Token admits nodes to a cluster: it names the cluster's root, so that the
// joiner cannot be fooled, and holds a secret, so that the cluster cannot.
type Token struct {
	digest [sha256.Size]byte
	secret [16]byte
}

// NewToken makes a token with a new secret for a root.
func NewToken(root *x509.Certificate) Token {
	t := Token{digest: sha256.Sum256(root.Raw)}
	rand.Read(t.secret[:]) // never fails: crypto/rand panics by itself
	return t
}

// ParseToken reads a token. Errors say what is wrong with it, without showing
// its secret.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), "-")
	switch {
	case parts[0] == "SWMTKN":
		return Token{}, malformed("it is one of Docker Swarm, whose clusters minid cannot join")
	case parts[0] != tokenPrefix:
		return Token{}, malformed("it does not start with %s-", tokenPrefix)
	case len(parts) > 1 && parts[1] != tokenVersion:
		return Token{}, malformed("version %.8q is not known to this minid", parts[1])
	case len(parts) != 4:
		return Token{}, malformed("it has %d of 4 parts", len(parts))
	}
	var t Token
	if err := decode36(t.digest[:], parts[2], digestLength, "CA digest"); err != nil {
		return Token{}, err
	}
	if err := decode36(t.secret[:], parts[3], secretLength, "secret"); err != nil {
		return Token{}, err
	}
	return t, nil
}

func malformed(format string, args ...any) *fault.Error {
	f := fault.New(fault.Invalid, format, args...)
	f.Message = "bad join token: " + f.Message + "; a token looks like " + tokenForm
	return f.WithTry(tokenTry)
}

// decode36 reads a number of exactly length digits into b.
func decode36(b []byte, s string, length int, what string) error {
	if len(s) != length {
		return malformed("its %s has %d characters instead of %d", what, len(s), length)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return malformed("its %s has characters other than 0-9 and a-z", what)
		}
	}
	n, _ := new(big.Int).SetString(s, 36)
	if n.BitLen() > 8*len(b) {
		return malformed("its %s is out of range", what)
	}
	n.FillBytes(b)
	return nil
}

// String writes the token as users pass it on.
func (t Token) String() string {
	digest := new(big.Int).SetBytes(t.digest[:]).Text(36)
	digest = strings.Repeat("0", digestLength-len(digest)) + digest
	return strings.Join([]string{tokenPrefix, tokenVersion, digest, id.Encode(t.secret[:])}, "-")
}

// Pins reports whether a certificate is the root that the token names.
func (t Token) Pins(root *x509.Certificate) bool {
	digest := sha256.Sum256(root.Raw)
	return subtle.ConstantTimeCompare(t.digest[:], digest[:]) == 1
}

// Equal compares tokens in a time that tells nothing of their secrets.
func (t Token) Equal(other Token) bool {
	digests := subtle.ConstantTimeCompare(t.digest[:], other.digest[:])
	return digests&subtle.ConstantTimeCompare(t.secret[:], other.secret[:]) == 1
}
