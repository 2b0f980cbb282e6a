package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/minid/minid/fault"
)

const (
	pemCert    = "CERTIFICATE"
	pemKey     = "EC PRIVATE KEY"
	pemRequest = "CERTIFICATE REQUEST"
)

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// newRequest makes a key and the PEM request for its certificate.
func newRequest() (*ecdsa.PrivateKey, []byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return key, encode(pemRequest, der), nil
}

// parseRequest returns the public key of a request whose sender has proved to
// hold the private one.
func parseRequest(csrPEM []byte) (crypto.PublicKey, error) {
	der, err := decode(csrPEM, pemRequest)
	if err != nil {
		return nil, fmt.Errorf("bad certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fault.New(fault.Invalid, "bad certificate request: %w", err)
	}
	if err := strongKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("bad certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.New(fault.Invalid, "bad certificate request: %w", err)
	}
	return csr.PublicKey, nil
}

func parseCert(certPEM []byte) (*x509.Certificate, error) {
	der, err := decode(certPEM, pemCert)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.Invalid, "bad certificate: %w", err)
	}
	return cert, nil
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	der, err := decode(keyPEM, pemKey)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, fault.New(fault.Invalid, "bad key: not an EC private key")
	}
	return key, strongKey(&key.PublicKey)
}

func keyPEM(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		panic(err) // the curve is known
	}
	return encode(pemKey, der)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// decode returns the first block, which must be of the kind.
func decode(data []byte, kind string) ([]byte, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fault.New(fault.Invalid, "no PEM block %q in it", kind)
	}
	if block.Type != kind {
		return nil, fault.New(fault.Invalid, "PEM block %q in it, want %q", block.Type, kind)
	}
	return block.Bytes, nil
}
