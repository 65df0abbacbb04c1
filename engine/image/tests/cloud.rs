//! The pod's own identity, against fakes of the services of Amazon, Google and Azure.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cooper_image::fake::{Access, FakeRegistry};
use cooper_image::platform::Platform;
use cooper_image::progress::Silent;
use cooper_image::random;
use cooper_image::reference::Reference;
use cooper_image::registry::auth::Secret;
use cooper_image::registry::cloud::{AmazonKeys, AmazonOptions, AzureOptions, Cloud, CloudOptions};
use cooper_image::registry::{Client, ClientOptions};
use cooper_image::store::{Store, StoreOptions};

/// A request: first line, headers in small letters, body.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Asked {
    fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|own| own == header)
    }
}

/// Services that answer by a table: a part of the first line, what a request must have, and the answer.
type Answers = Vec<(&'static str, &'static str, String)>;

struct Services {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Services {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is answered nothing.
                drop(answer(&stream, &answers, &log));
            }
        });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: &TcpStream, answers: &Answers, log: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap();
        }
        headers.push(format!("{}: {value}", name.to_ascii_lowercase()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked = Asked { line: line.trim_end().to_owned(), headers, body: String::from_utf8(body).unwrap() };
    let found = answers.iter().find(|(part, needs, _)| {
        asked.line.contains(part)
            && (asked.has(needs) || asked.body.contains(needs) || asked.line.contains(needs))
    });
    log.lock().unwrap().push(asked);
    let (status, text) = found.map_or(("403 No", ""), |(_, _, text)| ("200 OK", text));
    let count = text.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n{text}")
}

/// Whether an image can be pushed to a registry that wants this name and password, with an identity.
fn pushes(registry: &FakeRegistry, cloud: CloudOptions) -> cooper_image::Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &StoreOptions::plain()).unwrap();
    let image = random::image(&store, 3, 1).unwrap();
    let options =
        ClientOptions { cloud, first_wait: Duration::from_micros(100), ..ClientOptions::anonymous() };
    let client = Client::new(options).unwrap();
    let name: Reference = format!("{}/app:1", registry.name()).parse().unwrap();
    client.push(&store, &image.descriptor, &name, &Silent)?;
    let remote = client.resolve(&name)?;
    let pulled = store.import(&remote, remote.root(), &Platform::linux_amd64(), &Silent)?;
    assert_eq!(pulled, image);
    Ok(())
}

fn registry(user: &str, password: &str) -> FakeRegistry {
    FakeRegistry::start(Access::Basic(user.to_owned(), password.to_owned())).unwrap()
}

fn with(registry: &FakeRegistry, cloud: Cloud, options: CloudOptions) -> CloudOptions {
    CloudOptions { hosts: [(registry.name(), cloud)].into(), ..options }
}

const KEYS: &str = r#"{"AccessKeyId":"AKID","SecretAccessKey":"sk","Token":"st"}"#;

#[test]
fn amazon_gives_a_token_for_keys_from_each_source() {
    let registry = registry("AWS", "ecr-password");
    let token = STANDARD.encode("AWS:ecr-password");
    let services = Services::start(vec![
        ("PUT /latest/api/token", "x-aws-ec2-metadata-token-ttl-seconds: 60", "imds".to_owned()),
        (
            "GET /latest/meta-data/iam/security-credentials/role",
            "x-aws-ec2-metadata-token: imds",
            KEYS.to_owned(),
        ),
        (
            "GET /latest/meta-data/iam/security-credentials/",
            "x-aws-ec2-metadata-token: imds",
            "role\n".to_owned(),
        ),
        ("GET /container", "authorization: pod-token", KEYS.to_owned()),
        (
            "POST /sts/",
            "WebIdentityToken=jwt",
            format!(
                r#"{{"AssumeRoleWithWebIdentityResponse":{{"AssumeRoleWithWebIdentityResult":{{"Credentials":{}}}}}}}"#,
                KEYS.replace("Token", "SessionToken")
            ),
        ),
        (
            "POST / ",
            "x-amz-target: AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
            format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#),
        ),
    ]);
    let (url, ecr) = (services.url(), Some(services.url()));
    let keys = AmazonKeys { id: "AKID".to_owned(), secret: Secret::new("sk"), session: None };
    let sources = [
        AmazonOptions { keys: Some(keys), ..AmazonOptions::default() },
        AmazonOptions {
            web_identity: Some(("arn:aws:iam::1:role/x".to_owned(), Secret::new("jwt"))),
            sts: Some(format!("{url}/sts")),
            ..AmazonOptions::default()
        },
        AmazonOptions {
            container: Some((format!("{url}/container"), Some(Secret::new("pod-token")))),
            ..AmazonOptions::default()
        },
        AmazonOptions { metadata: Some(url.clone()), ..AmazonOptions::default() },
    ];
    for (number, source) in sources.into_iter().enumerate() {
        let amazon = AmazonOptions { ecr: ecr.clone(), ..source };
        let options = CloudOptions { amazon, ..CloudOptions::default() };
        let region = Cloud::Amazon("eu-west-1".to_owned());
        pushes(&registry, with(&registry, region, options))
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        let signed = services.asked().into_iter().rfind(|asked| asked.line.starts_with("POST / ")).unwrap();
        let authorization =
            signed.headers.iter().find(|header| header.starts_with("authorization: ")).unwrap();
        assert!(
            authorization.contains("Credential=AKID/")
                && authorization.contains("/eu-west-1/ecr/aws4_request")
        );
        assert_eq!(signed.has("x-amz-security-token: st"), number > 0, "{number}");
        assert!(!format!("{:?}", signed.headers).contains("sk"), "the secret itself is never sent");
    }
}

#[test]
fn google_gives_the_token_of_the_service_account() {
    let registry = registry("oauth2accesstoken", "ya29");
    let services = Services::start(vec![(
        "GET /computeMetadata/v1/instance/service-accounts/default/token",
        "metadata-flavor: Google",
        r#"{"access_token":"ya29","expires_in":3599,"token_type":"Bearer"}"#.to_owned(),
    )]);
    let google = Some(services.url());
    pushes(&registry, with(&registry, Cloud::Google, CloudOptions { google, ..CloudOptions::default() }))
        .unwrap();
    assert_eq!(services.asked().len(), 1, "asked once");
}

#[test]
fn azure_exchanges_a_token_at_the_registry() {
    // The exchange is at the registry's own host, so the services are the registry, too.
    let services = Services::start(vec![
        (
            "POST /tenant/oauth2/v2.0/token",
            "client_assertion=federated",
            r#"{"access_token":"entra"}"#.to_owned(),
        ),
        ("GET /metadata/identity/oauth2/token", "metadata: true", r#"{"access_token":"entra"}"#.to_owned()),
        ("POST /oauth2/exchange", "access_token=entra", r#"{"refresh_token":"refresh"}"#.to_owned()),
    ]);
    let set = |text: &str| Some(text.to_owned());
    let ways = [
        AzureOptions {
            authority: Some(services.url()),
            tenant: set("tenant"),
            client: set("client"),
            federated: Some(Secret::new("federated")),
            metadata: None,
        },
        AzureOptions { metadata: Some(services.url()), ..AzureOptions::default() },
    ];
    for azure in ways {
        let name = services.address.to_string();
        let hosts = [(name.clone(), Cloud::Azure)].into();
        let cloud = CloudOptions { azure, hosts, ..CloudOptions::default() };
        let options = ClientOptions { cloud, ..ClientOptions::anonymous() };
        let reference: Reference = format!("{name}/app:1").parse().unwrap();
        let described = Client::new(options).unwrap().describe(&reference).unwrap();
        assert!(described.contains("as `00000000-0000-0000-0000-000000000000`"), "{described}");
        assert!(!described.contains("refresh"));
    }
}

#[test]
fn nobody_is_asked_for_other_registries_and_refusals_are_named() {
    let services = Services::start(Vec::new());
    let google = Some(services.url());
    let open = FakeRegistry::start(Access::Open).unwrap();
    pushes(&open, CloudOptions { google: google.clone(), ..CloudOptions::default() }).unwrap();
    assert!(services.asked().is_empty(), "this registry is nobody's");
    let refused = with(&open, Cloud::Google, CloudOptions { google, ..CloudOptions::default() });
    let error = pushes(&open, refused).unwrap_err().to_string();
    assert!(error.contains("the metadata server of Google: it answers 403"), "{error}");
    // Where there is no metadata server the pod has no identity, and that is no failure.
    let nobody = Some("http://127.0.0.1:1".to_owned());
    pushes(&open, with(&open, Cloud::Google, CloudOptions { google: nobody, ..CloudOptions::default() }))
        .unwrap();
}
