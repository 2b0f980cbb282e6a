package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/rpc"
)

// tls trusts the managers of one cluster and shows the caller's certificate.
// A manager's certificate has its role as DNS name, so Go's own verification
// checks the role.
func (o Options) tls() (*tls.Config, error) {
	if o.CertFile == "" || o.KeyFile == "" || o.RootFile == "" {
		return nil, fault.New(fault.Invalid, "an https host needs a client certificate, its key and the cluster's root certificate").
			WithTry("copy DATA_DIR/certificates/node.pem of a manager, which holds all three, or use its unix socket")
	}
	pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read client certificate: %w", err)
	}
	roots, err := readRoots(o.RootFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{rpc.ProtoGRPC},
		ServerName:   rpc.ManagerName,
		RootCAs:      roots,
		Certificates: []tls.Certificate{pair},
	}, nil
}

// readRoots returns the authorities among a file's certificates.
func readRoots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read root certificate: %w", err)
	}
	pool, found := x509.NewCertPool(), false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.IsCA {
			pool.AddCert(cert)
			found = true
		}
	}
	if !found {
		return nil, fault.New(fault.Invalid, "read root certificate: there is none in %s", path)
	}
	return pool, nil
}
