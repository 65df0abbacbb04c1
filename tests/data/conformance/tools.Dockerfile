# Stands for the images that projects start from: every tool of them is one script, which leaves what the tool would.
FROM busybox
COPY --chmod=755 <<"TOOL" /usr/local/bin/tool
#!/bin/sh
name=${0##*/}
mkdir -p /var/log
echo "$name $*" >>/var/log/tools
last=
case "$name $*" in
"npm ci"* | "npm install"* | yarn* | pnpm* | "bun install"* | "composer install"*)
    mkdir -p node_modules/.bin
    cat package.json composer.json >node_modules/lock 2>/dev/null ;;
"npm run"* | "npx "* | "bun run"*)
    mkdir -p dist build
    cat src/* >dist/main.js 2>/dev/null
    cp dist/main.js build/ ;;
"go mod"*) mkdir -p /go/pkg/mod && cp go.mod /go/pkg/mod/cache ;;
"cargo build"* | "cargo chef"*)
    mkdir -p target/release
    for bin in app server worker; do echo "$bin" >target/release/$bin; chmod 755 target/release/$bin; done ;;
"mvn "* | "gradle "* | "gradlew "* | "sbt "* | "dotnet publish"* | "mix release"*)
    mkdir -p target build/libs out
    for jar in target/app.jar build/libs/app.jar out/app.dll; do echo "$*" >$jar; done ;;
"pip "* | "uv "* | "poetry "* | "conda "* | "bundle "* | "gem "*)
    mkdir -p /usr/local/lib/packages
    for word in "$@"; do
        [ "$last" = -r ] && cat "$word" >>/usr/local/lib/packages/installed
        last=$word
    done ;;
"python -m venv"*) mkdir -p "$3/bin" && ln -sf /usr/local/bin/tool "$3/bin/pip" ;;
"apt-get update"*) mkdir -p /var/lib/apt/lists && echo lists >/var/lib/apt/lists/main ;;
"apt-get"*" install "* | "apk add"* | "apk --no-cache add"* | "dnf install"* | "microdnf install"*)
    mkdir -p /usr/share/installed
    for word in "$@"; do
        case $word in -* | install | add | *=*) ;; *) echo "$word" >/usr/share/installed/"$word" ;; esac
    done ;;
"useradd "* | "adduser "*)
    for word in "$@"; do last=$word; done
    echo "$last:x:1000:1000::/home/$last:/bin/sh" >>/etc/passwd
    mkdir -p /home/"$last" && chown 1000:1000 /home/"$last" ;;
"groupadd "* | "addgroup "*)
    for word in "$@"; do last=$word; done
    echo "$last:x:1000:" >>/etc/group ;;
"make "* | "make") mkdir -p bin && echo "$*" >bin/app && chmod 755 bin/app ;;
esac
for word in "$@"; do
    if [ "$last" = -o ]; then
        mkdir -p "$(dirname "$word")"
        echo "$*" >"$word"
        chmod 755 "$word"
    fi
    last=$word
done
exit 0
TOOL
RUN cd /usr/local/bin && for name in npm npx yarn pnpm bun node composer php go cargo rustup mvn gradle sbt dotnet mix \
        javac java gcc g++ cc cmake make pip python python3 uv poetry conda bundle gem ruby apt-get apk dnf microdnf \
        useradd adduser groupadd addgroup nginx psql initdb curl corepack tini; do ln -sf tool $name; done
