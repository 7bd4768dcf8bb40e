// Verifies a chain of Sentry as a peer written in Go does: by the SPIFFE rules, with the standard library.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func certificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	return found, nil
}

func verify(rootFile, chainFile, id string) error {
	roots, err := certificates(rootFile)
	if err != nil {
		return err
	}
	chain, err := certificates(chainFile)
	if err != nil {
		return err
	}
	trusted, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range roots {
		// Only what signs itself is an anchor; a chain given as roots must not verify itself.
		if root.CheckSignatureFrom(root) == nil {
			trusted.AddCert(root)
		}
	}
	leaf := chain[0]
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return fmt.Errorf("the leaf is an authority")
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		return fmt.Errorf("the leaf has the names %v", leaf.URIs)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:         trusted,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

func main() {
	if err := verify(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
