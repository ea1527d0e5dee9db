# A Site that serves the relay and other pages:  twistd -n -y embedded.tac
from twisted.application import service, strports
from twisted.web import server, static

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig

application = service.Application("pages and a relay")
relay = AceBaseIPCServer(AceBaseIPCServerConfig(port=None, token="change me"))
relay.setServiceParent(application)  # it opens no port, but runs the relay's timers

root = relay.resource()  # the root, because AceBase requests /<database>/connect
root.putChild(b"hello", static.Data(b"Hello!\n", "text/plain"))
site = server.Site(root)
site.log = lambda request: None  # an access log would show the token
strports.service("tcp:8080:interface=127.0.0.1", site).setServiceParent(application)
