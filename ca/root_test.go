package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/rpc"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestRootComesBackFromPEM(t *testing.T) {
	root := mustRoot(t, "c1", noon)
	got, err := ParseRoot(root.CertPEM(), root.KeyPEM())
	if err != nil || !got.Cert.Equal(root.Cert) || !got.Key.Equal(root.Key) || got.ClusterID() != "c1" {
		t.Fatalf("got %v, %v", got, err)
	}
	if years := root.Cert.NotAfter.Sub(noon).Hours() / 24 / 365; years != 20 {
		t.Errorf("the root lives %v years", years)
	}
	public, err := ParseRoot(root.CertPEM(), nil)
	if err != nil || public.KeyPEM() != nil {
		t.Errorf("root without key: %v, %v", public, err)
	}
	if _, err := public.Issue(request(t), Subject{"n", "c1", workerRole}, time.Hour, noon); err == nil {
		t.Error("a root without its key issued a certificate")
	}
}

func TestBadRoots(t *testing.T) {
	root, other := mustRoot(t, "c1", noon), mustRoot(t, "c1", noon)
	leaf := issue(t, root, Subject{"n", "c1", managerRole}, time.Hour, noon)
	for name, c := range map[string]struct{ cert, key []byte }{
		"nothing":          {nil, nil},
		"no PEM":           {[]byte("hello"), nil},
		"key for cert":     {root.KeyPEM(), root.KeyPEM()},
		"cert for key":     {root.CertPEM(), root.CertPEM()},
		"leaf":             {leaf.Cert, nil},
		"another's key":    {root.CertPEM(), other.KeyPEM()},
		"damaged":          {encode(pemCert, root.Cert.Raw[:100]), nil},
		"damaged key":      {root.CertPEM(), encode(pemKey, []byte{1, 2, 3})},
		"RSA root":         {selfSigned(t, mustRSA(t)), nil},
		"root of P-384":    {selfSigned(t, mustEC(t, elliptic.P384())), nil},
		"root of no minid": {selfSigned(t, mustEC(t, elliptic.P256())), nil},
	} {
		if _, err := ParseRoot(c.cert, c.key); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func selfSigned(t *testing.T, key crypto.Signer) []byte {
	template := &x509.Certificate{SerialNumber: serial(), IsCA: true, BasicConstraintsValid: true, NotAfter: noon}
	if _, ok := key.(*ecdsa.PrivateKey); !ok || key.Public().(*ecdsa.PublicKey).Curve != elliptic.P256() {
		template.Subject.Organization = []string{"c1"}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return encode(pemCert, der)
}

func mustRSA(t *testing.T) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustEC(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestIssueTakesNothingButTheKeyFromARequest(t *testing.T) {
	root := mustRoot(t, "c1", noon)
	key := mustEC(t, elliptic.P256())
	greedy, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{Organization: []string{"c2"}, OrganizationalUnit: []string{rpc.ManagerName}, CommonName: "boss"},
		DNSNames:        []string{rpc.ManagerName, "example.org"},
		IPAddresses:     []net.IP{net.IPv4(10, 0, 0, 1)},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA:TRUE
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := root.Issue(encode(pemRequest, greedy), Subject{"n1", "c1", workerRole}, 90*24*time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	id, err := root.Verify(cert, noon)
	if err != nil || id != (rpc.Identity{NodeID: "n1", ClusterID: "c1", Role: workerRole}) {
		t.Errorf("identity %+v, %v", id, err)
	}
	if cert.IsCA || !slices.Equal(cert.DNSNames, []string{rpc.WorkerName}) || len(cert.IPAddresses) != 0 || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("the request had its way: CA %v, names %v %v", cert.IsCA, cert.DNSNames, cert.IPAddresses)
	}
	if cert.NotBefore != noon.Add(-time.Hour) || cert.NotAfter != noon.Add(90*24*time.Hour) {
		t.Errorf("valid from %v to %v", cert.NotBefore, cert.NotAfter)
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("usage %v", cert.ExtKeyUsage)
	}
}

func TestIssueRefusesOtherKeys(t *testing.T) {
	root := mustRoot(t, "c1", noon)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]crypto.Signer{
		"rsa":   mustRSA(t),
		"P-224": mustEC(t, elliptic.P224()), "P-384": mustEC(t, elliptic.P384()), "P-521": mustEC(t, elliptic.P521()),
		"ed25519": ed,
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = root.Issue(encode(pemRequest, der), Subject{"n", "c1", workerRole}, time.Hour, noon)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "want ECDSA P-256") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestIssueRefusesBadRequests(t *testing.T) {
	root := mustRoot(t, "c1", noon)
	good := request(t)
	der, _ := decode(good, pemRequest)
	unsigned := slices.Clone(der)
	unsigned[len(unsigned)-1] ^= 1
	for name, csr := range map[string][]byte{
		"nothing": nil, "text": []byte("please"), "truncated": encode(pemRequest, der[:40]),
		"wrong signature": encode(pemRequest, unsigned), "certificate": root.CertPEM(),
	} {
		if _, err := root.Issue(csr, Subject{"n", "c1", workerRole}, time.Hour, noon); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []Subject{{}, {"n", "c2", workerRole}, {"", "c1", workerRole}, {"n", "c1", noRole}} {
		if _, err := root.Issue(good, s, time.Hour, noon); err == nil {
			t.Errorf("issued %+v", s)
		}
	}
}

func TestLifeOfCertificates(t *testing.T) {
	root := mustRoot(t, "c1", noon)
	for life, want := range map[time.Duration]time.Time{
		0:                         noon.Add(time.Hour),
		time.Minute:               noon.Add(time.Hour),
		2 * time.Hour:             noon.Add(2 * time.Hour),
		30 * 365 * 24 * time.Hour: root.Cert.NotAfter,
	} {
		cert, err := parseCert(issue(t, root, Subject{"n", "c1", workerRole}, life, noon).Cert)
		if err != nil || !cert.NotAfter.Equal(want) {
			t.Errorf("expiry %v ends at %v, want %v (%v)", life, cert.NotAfter, want, err)
		}
	}
}

func TestVerify(t *testing.T) {
	root := mustRoot(t, "c1", noon)
	ours := issue(t, root, Subject{"n1", "c1", managerRole}, 24*time.Hour, noon).Cert
	for name, c := range map[string]struct {
		cert []byte
		at   time.Time
		want string
		try  string
	}{
		"good":            {ours, noon, "", ""},
		"slow clock":      {ours, noon.Add(-50 * time.Minute), "", ""},
		"very slow clock": {ours, noon.Add(-2 * time.Hour), "a clock is wrong", "timedatectl"},
		"last moment":     {ours, noon.Add(24 * time.Hour), "", ""},
		"expired":         {ours, noon.Add(25 * time.Hour), "expired at 2026-11-23T12:00:00Z", "swarm leave --force, then minictl swarm join"},
		"impostor":        {issue(t, mustRoot(t, "c1", noon), Subject{"n1", "c1", managerRole}, time.Hour, noon).Cert, noon, "another cluster's CA", "swarm leave"},
		"other cluster":   {issue(t, mustRoot(t, "c2", noon), Subject{"n1", "c2", managerRole}, time.Hour, noon).Cert, noon, "another cluster's CA", "swarm leave"},
		"the root":        {root.CertPEM(), noon, "not one of a minid node", ""},
	} {
		cert, err := parseCert(c.cert)
		if err != nil {
			t.Fatal(err)
		}
		id, err := root.Verify(cert, c.at)
		switch {
		case c.want == "" && (err != nil || id.NodeID != "n1"):
			t.Errorf("%s: %v, %v", name, id, err)
		case c.want != "" && (!fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), c.want) || !strings.Contains(fault.TryOf(err), c.try)):
			t.Errorf("%s: %v, try %q", name, err, fault.TryOf(err))
		}
	}
}
