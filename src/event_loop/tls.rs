//! The TLS configuration that all loops share, read from PEM files.
//!
//! Owns: which versions, protocols and tickets are offered. Never: touches a connection (see `transport`), or lets
//! anything of a key file into a message.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{Error, version};
use std::path::Path;
use std::sync::Arc;

/// Makes the ticket keys of this process. They turn over by themselves and are never stored.
///
/// # Errors
/// The system has no random numbers.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, String> {
    aws_lc_rs::Ticketer::new().map_err(|error| format!("TLS ticket keys: {error}"))
}

/// Reads a certificate chain (the server's own first) and its private key, and makes the configuration for all loops.
///
/// TLS 1.2 and 1.3. A client that offers protocols by ALPN must offer `http/1.1`; one that offers none is served. One
/// ticket per TLS 1.3 session resumes it on any loop; nothing is kept on the server, and early data, which can be
/// replayed, is refused.
///
/// # Errors
/// A text that names the file and what is wrong with it: unreadable, not PEM, without a certificate or key, or a key
/// that does not fit the certificate.
pub fn load(cert: &Path, key: &Path, ticketer: Arc<dyn ProducesTickets>) -> Result<Arc<ServerConfig>, String> {
    let chain = read_chain(cert)?;
    let private_key = read_key(key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| format!("TLS: {error}"))?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|error| misfit(cert, key, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = ticketer;
    // Tickets carry the session, so a table of sessions would only add a lock that the loops share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| format!("TLS certificate {}: {}", path.display(), problem(&error)))?;
    if chain.is_empty() {
        return Err(format!(
            "TLS certificate {}: no certificate in the file",
            path.display()
        ));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let problem = match error {
            pem::Error::NoItemsFound => "no unencrypted private key in the file".to_owned(),
            error => problem(&error),
        };
        format!("TLS key {}: {problem}", path.display())
    })
}

/// The library's own texts quote the offending line, which in a key file may be the key.
fn problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no end line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a PEM section has a malformed first line".to_owned(),
        pem::Error::Base64Decode(_) => "a PEM section is not base64".to_owned(),
        pem::Error::SectionTooLarge => "a PEM section is too large".to_owned(),
        _ => "not a PEM file".to_owned(),
    }
}

fn misfit(cert: &Path, key: &Path, error: &Error) -> String {
    match error {
        Error::InconsistentKeys(_) => {
            format!(
                "TLS key {}: does not belong to the certificate {}",
                key.display(),
                cert.display()
            )
        }
        Error::InvalidCertificate(_) => format!("TLS certificate {}: not an X.509 certificate", cert.display()),
        _ => format!(
            "TLS key {}: not a key that can be used (RSA, ECDSA or Ed25519)",
            key.display()
        ),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A certificate for `localhost` and both ends' configurations, for tests that speak TLS.
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

    pub(crate) struct Identity {
        pub(crate) cert_pem: String,
        pub(crate) key_pem: String,
        der: CertificateDer<'static>,
    }

    impl Identity {
        pub(crate) fn new() -> Self {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            Self {
                cert_pem: made.cert.pem(),
                key_pem: made.signing_key.serialize_pem(),
                der: made.cert.der().clone(),
            }
        }

        pub(crate) fn server(&self) -> Arc<ServerConfig> {
            let folder = tempfile::tempdir().unwrap();
            let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
            std::fs::write(&cert, &self.cert_pem).unwrap();
            std::fs::write(&key, &self.key_pem).unwrap();
            load(&cert, &key, ticketer().unwrap()).unwrap()
        }

        pub(crate) fn client(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> Arc<ClientConfig> {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone()).unwrap();
            let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::testing::Identity;
    use super::*;
    use rustls::{AlertDescription, ClientConfig, ClientConnection, HandshakeKind, ServerConnection};
    use std::path::PathBuf;
    use tempfile::TempDir;

    fn files(cert: &str, key: &str) -> (TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let paths = (folder.path().join("chain.pem"), folder.path().join("private.pem"));
        std::fs::write(&paths.0, cert).unwrap();
        std::fs::write(&paths.1, key).unwrap();
        (folder, paths.0, paths.1)
    }

    fn refusal(cert: &str, key: &str) -> String {
        let (_folder, cert, key) = files(cert, key);
        load(&cert, &key, ticketer().unwrap()).unwrap_err()
    }

    /// Carries handshakes in memory until neither end has more to say.
    fn shake(
        server: &Arc<ServerConfig>,
        client: &Arc<ClientConfig>,
    ) -> (ServerConnection, ClientConnection, Option<Error>) {
        let mut server = ServerConnection::new(server.clone()).unwrap();
        let mut client = ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
        let mut failure = None;
        for _ in 0..10 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut rest = &wire[..];
            while !rest.is_empty() && failure.is_none() {
                server.read_tls(&mut rest).unwrap();
                failure = server.process_new_packets().err();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                if let Err(error) = client.process_new_packets() {
                    return (server, client, Some(error));
                }
            }
        }
        (server, client, failure)
    }

    #[test]
    fn both_versions_shake_hands_and_agree_on_http() {
        let identity = Identity::new();
        let config = identity.server();
        for version in [&version::TLS13, &version::TLS12] {
            let (server, client, failure) = shake(&config, &identity.client(version, &[b"h2", b"http/1.1"]));
            assert_eq!(failure, None);
            assert!(!server.is_handshaking() && !client.is_handshaking());
            assert_eq!(client.protocol_version(), Some(version.version));
            assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
        }
    }

    #[test]
    fn a_client_without_protocols_is_served_and_one_with_only_h2_is_not() {
        let identity = Identity::new();
        let config = identity.server();
        let (server, _, failure) = shake(&config, &identity.client(&version::TLS13, &[]));
        assert!(failure.is_none() && !server.is_handshaking());
        let (_, _, failure) = shake(&config, &identity.client(&version::TLS13, &[b"h2"]));
        assert_eq!(
            failure,
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol))
        );
    }

    #[test]
    fn one_ticket_resumes_the_session_without_memory_on_the_server() {
        let identity = Identity::new();
        let config = identity.server();
        for version in [&version::TLS13, &version::TLS12] {
            let client_config = identity.client(version, &[b"http/1.1"]);
            let (_, first, _) = shake(&config, &client_config);
            assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(
                first.tls13_tickets_received(),
                u32::from(version.version == version::TLS13.version)
            );
            let (_, second, _) = shake(&config, &client_config);
            assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        }
        assert_eq!(config.max_early_data_size, 0);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_by_name() {
        let (one, other) = (Identity::new(), Identity::new());
        let text = refusal(&one.cert_pem, &other.key_pem);
        assert!(
            text.contains("private.pem") && text.contains("does not belong"),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_is_told_without_any_of_the_key() {
        let Identity { cert_pem, key_pem, .. } = &Identity::new();
        let body = key_pem.lines().nth(1).unwrap();
        let cases = [
            (
                cert_pem.as_str(),
                key_pem.split("-----END").next().unwrap().to_owned(),
                "private.pem: a PEM section has no end",
            ),
            (
                cert_pem,
                key_pem.replacen(body, &format!("{body}*"), 1),
                "private.pem: a PEM section is not base64",
            ),
            (cert_pem, format!("-----BEGIN {body}\n"), "private.pem: "),
            (cert_pem, cert_pem.clone(), "private.pem: no unencrypted private key"),
            (cert_pem, String::new(), "private.pem: no unencrypted private key"),
            (key_pem, key_pem.clone(), "chain.pem: no certificate"),
            (
                cert_pem,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
                "private.pem: not a key",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                key_pem.clone(),
                "chain.pem: not an X.509",
            ),
        ];
        for (cert, key, wanted) in cases {
            let text = refusal(cert, &key);
            assert!(text.contains(wanted), "{text:?} has no {wanted:?}");
            assert!(!text.contains(&body[..8]) && !text.contains('['), "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let identity = Identity::new();
        let (_folder, cert, key) = files(&identity.cert_pem, &identity.key_pem);
        std::fs::remove_file(&key).unwrap();
        let text = load(&cert, &key, ticketer().unwrap()).unwrap_err();
        assert!(text.contains("private.pem") && text.contains("No such file"), "{text}");
    }
}
