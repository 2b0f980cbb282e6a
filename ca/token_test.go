package ca

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
)

func TestTokensHaveTheirForm(t *testing.T) {
	root, other := mustRoot(t, "c1", noon), mustRoot(t, "c1", noon)
	form := regexp.MustCompile(`^MNTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$`)
	a, b := NewToken(root.Cert), NewToken(root.Cert)
	if !form.MatchString(a.String()) || a.Equal(b) || a.String() == b.String() {
		t.Errorf("tokens %v and %v", a, b)
	}
	if !a.Pins(root.Cert) || a.Pins(other.Cert) {
		t.Error("a token pins the wrong root")
	}
	if got, err := ParseToken("  " + a.String() + "\n"); err != nil || !got.Equal(a) {
		t.Errorf("pasted with spaces: %v, %v", got, err)
	}
}

func TestMalformedTokens(t *testing.T) {
	good := NewToken(mustRoot(t, "c1", noon).Cert).String()
	digest, secret := good[8:58], good[59:]
	for token, want := range map[string]string{
		"":                                     "does not start with MNTKN-",
		"MNTKN":                                "has 1 of 4 parts",
		"MNTKN-1":                              "has 2 of 4 parts",
		good + "-x":                            "has 5 of 4 parts",
		"SWMTKN-1-" + digest + "-" + secret:    "Docker Swarm",
		"mntkn-1-" + digest + "-" + secret:     "does not start with MNTKN-",
		"MNTKN-2-" + digest + "-" + secret:     "version \"2\" is not known",
		"MNTKN-1-" + digest[1:] + "-" + secret: "CA digest has 49 characters instead of 50",
		good[:len(good)-1]:                     "secret has 24 characters instead of 25",
		"MNTKN-1-" + strings.ToUpper(digest[:49]) + "A-" + secret:         "CA digest has characters other than",
		"MNTKN-1-" + digest + "-" + "+" + secret[1:]:                      "secret has characters other than",
		"MNTKN-1-" + strings.Repeat("z", 50) + "-" + secret:               "CA digest is out of range",
		"MNTKN-1-" + digest + "-" + strings.Repeat("z", 25):               "secret is out of range",
		"MNTKN-1-" + digest + "-" + secret[:24] + "_":                     "secret has characters other than",
		"MNTKN-" + strings.Repeat("9", 5000) + "-" + digest + "-" + "abc": "version \"99999999\" is not known",
	} {
		_, err := ParseToken(token)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) || !strings.Contains(fault.TryOf(err), "minictl swarm join-token") {
			t.Errorf("%.20q: %v, try %q", token, err, fault.TryOf(err))
		}
		if err != nil && strings.Contains(err.Error(), secret[:20]) {
			t.Errorf("%.20q: the error shows the secret: %v", token, err)
		}
	}
}

func TestTokensComeBackFromText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want Token
		copy(want.digest[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
		copy(want.secret[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "secret"))
		got, err := ParseToken(want.String())
		if err != nil || got != want {
			t.Fatalf("%v came back as %v, %v", want, got, err)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{}.String())
	f.Add("MNTKN-1-" + strings.Repeat("z", 50) + "-" + strings.Repeat("z", 25))
	f.Add("SWMTKN-1-x-y")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err == nil && token.String() != strings.TrimSpace(s) {
			t.Errorf("%q was read as %v", s, token)
		}
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	})
}
